"""Hugging Face's imagefolder with objects in its metadata files."""

import csv
import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from libradet.data.read import check, read, splits
from libradet.errors import UserError

BOXES = [[1.5, 2.0, 30.0, 40.25], [10, 20, 5, 6]]
XYXY = [[1.5, 2, 31.5, 42.25], [10, 20, 15, 26]]
README = """---
license: mit
dataset_info:
  features:
  - name: label
    dtype: string
  - name: objects
    {kind}:
    - name: bbox
      list: float32
    - name: category
      {inner}:
        class_label:
          names:
            '0': zebra
            '1': ant
            '2': bee
---
# Insects
"""


def row(objects, name="a.png", **more):
    return {"file_name": name, "objects": objects} | more


def write(folder, *rows, file="metadata.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    for content in rows:
        path = folder / next(value for key, value in content.items() if key.endswith("file_name"))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 80)).save(path)
    if file.endswith(".jsonl"):
        (folder / file).write_text("".join(f"{json.dumps(content)}\n" for content in rows))
    return folder


def write_csv(folder, rows):
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.mark.parametrize("key", ["category", "categories", "label", "category_name"])
@pytest.mark.parametrize("as_list", [False, True])
def test_objects(tmp_path, key, as_list):
    objects = {"bbox": BOXES, key: ["dog", "cat"], "id": [7, 9]}
    if as_list:
        objects = [
            {"bbox": box, key: name, "id": i} for box, name, i in zip(BOXES, ["dog", "cat"], [7, 9], strict=True)
        ]
    dataset, report = read(write(tmp_path, row(objects), row({"bbox": [], key: []}, "b.png")))
    image, background = dataset.images
    np.testing.assert_allclose(image.boxes, XYXY, atol=1e-5)
    assert dataset.class_names == ["cat", "dog"]
    assert image.labels.tolist() == [1, 0]
    assert image.annotation_ids.tolist() == [7, 9]
    assert len(background.boxes) == 0
    assert not report.warnings
    assert any("x, y, width, height" in note for note in report.notes)


def test_columns_of_the_row_itself(tmp_path):
    content = {"image_file_name": "a.png", "bbox": BOXES, "category": [3, 5]}
    dataset, report = read(write(tmp_path, content))
    assert (dataset.class_names, dataset.category_ids) == (["3", "5"], [3, 5])
    assert "2 classes have no name in README.md: their numbers are the names" in report.notes


@pytest.mark.parametrize(("kind", "inner"), [("list", "dtype"), ("struct", "list"), ("sequence", "sequence")])
def test_names_of_numbers(tmp_path, kind, inner):
    root = write(tmp_path, row({"bbox": BOXES, "category": [2, 0]}))
    (root / "README.md").write_text(README.format(kind=kind, inner=inner))
    dataset, report = read(root)
    assert dataset.class_names == ["zebra", "ant", "bee"]
    assert dataset.images[0].labels.tolist() == [2, 0]
    assert not any("README" in note for note in report.notes)


def test_names_in_the_order_of_the_readme(tmp_path):
    root = write(tmp_path, row({"bbox": BOXES, "category": ["bee", "wasp"]}))
    (root / "README.md").write_text(README.format(kind="list", inner="dtype"))
    assert read(root)[0].class_names == ["zebra", "ant", "bee", "wasp"]


@pytest.mark.parametrize("nested", ["", "data"])
def test_split_folders(tmp_path, nested):
    write(tmp_path / nested / "train", row({"bbox": BOXES[:1], "category": ["dog"]}))
    write(tmp_path / nested / "validation", row({"bbox": BOXES[:1], "category": ["cat"]}))
    assert splits(tmp_path) == ["train", "validation"]
    assert read(tmp_path, "val")[0].class_names == read(tmp_path, "train")[0].class_names == ["cat", "dog"]
    assert not check(tmp_path).errors


def test_one_file_for_several_split_folders(tmp_path):
    objects = {"bbox": BOXES[:1], "category": ["dog"]}
    write(tmp_path, row(objects, "train/a.png"), row(objects, "test/b.png"), row(objects, "train/sub/c.png"))
    assert splits(tmp_path) == ["train", "test"]
    assert [image.path.name for image in read(tmp_path, "train")[0].images] == ["a.png", "c.png"]


def test_several_files(tmp_path):
    for folder, name in (("one", "dog"), ("two", "cat")):
        write(tmp_path / folder, row({"bbox": BOXES[:1], "category": [name]}))
    dataset, _ = read(tmp_path)
    assert [image.path.parent.name for image in dataset.images] == ["one", "two"]
    assert [dataset.class_names[image.labels[0]] for image in dataset.images] == ["dog", "cat"]


@pytest.mark.parametrize("dump", [json.dumps, repr])
def test_csv(tmp_path, dump):
    objects = {"bbox": BOXES, "category": ["dog", "cat"]}
    write(tmp_path, row(objects), file="metadata.csv")
    root = write_csv(tmp_path, [row(dump(objects))])
    np.testing.assert_allclose(read(root)[0].images[0].boxes, XYXY, atol=1e-5)
    root = write_csv(tmp_path, [{"file_name": "a.png", "bbox": dump(BOXES), "category": dump(["dog", "cat"])}])
    np.testing.assert_allclose(read(root)[0].images[0].boxes, XYXY, atol=1e-5)


def test_text_of_numpy_is_refused(tmp_path):
    write(tmp_path, row({}), file="metadata.csv")
    root = write_csv(tmp_path, [row("{'bbox': array([array([1., 2., 3., 4.])], dtype=object)}")])
    with pytest.raises(UserError, match=r"metadata\.csv, row 1: not valid JSON, but NumPy's text.*to_json"):
        read(root)


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_names_what_to_install(tmp_path):
    (tmp_path / "metadata.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"metadata\.parquet: pyarrow.*pip install pyarrow"):
        read(tmp_path)


def test_images_without_a_row_are_counted(tmp_path):
    root = write(tmp_path, row({"bbox": BOXES, "category": ["dog", "cat"]}))
    Image.new("RGB", (10, 10)).save(root / "z.png")
    dataset, report = read(root)
    assert len(dataset.images) == 1
    assert "1 image has no row of metadata: not used (z.png)" in report.notes


def test_corners_in_place_of_sizes_are_refused(tmp_path):
    report = check(write(tmp_path, row({"bbox": [[50, 40, 90, 70], [60, 50, 99, 79]], "category": [0, 0]})))
    assert "none would if they were x1, y1, x2, y2" in report.errors[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (row({"bbox": BOXES, "category": ["dog"]}), "metadata.jsonl:1: 2 bbox, but 1 category"),
        (row({"bbox": BOXES}), "metadata.jsonl:1: an object has no category"),
        (row([1, 2]), "metadata.jsonl:1: 'objects' must be"),
        (row("nothing"), "metadata.jsonl:1: not valid JSON"),
    ],
)
def test_damaged_rows_are_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, content))


def test_damaged_lines_are_refused(tmp_path):
    root = write(tmp_path, row({"bbox": BOXES, "category": ["dog", "cat"]}))
    with (root / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "b.p')
    with pytest.raises(UserError, match=r"metadata\.jsonl:2: not valid JSON"):
        read(root)


@pytest.mark.parametrize(
    ("objects", "is_refused"),
    [({"bounding_boxes": BOXES, "category": [0, 1]}, True), ({"category": []}, False), ({"bbox": None}, False)],
)
def test_objects_without_boxes(tmp_path, objects, is_refused):
    root = write(tmp_path, row({"bbox": BOXES, "category": [2, 0]}), row(objects, "b.png"))
    errors = check(root).errors
    expected = "jsonl:2: 'objects' has no boxes, only bounding_boxes, category; name them bbox."
    assert [error.endswith(expected) for error in errors] == [True] * is_refused
