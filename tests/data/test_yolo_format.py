"""YOLO format: folder layouts, label files, and invalid or hostile settings."""

from pathlib import Path

import numpy as np
import pytest

from libradet.data.convert import convert
from libradet.data.read import check, read, splits
from libradet.errors import UserError
from tests.helpers.data_building import SIZES, essence, records, write, write_images


def yolo_labels(folder: Path, polygons: bool = False) -> None:
    """Write label files for :func:`records`, classes cat, dog, hen."""
    folder.mkdir(parents=True)
    content, number = records(), {1: 0, 7: 1, 9: 2}
    for annotation in content["annotations"]:
        row = annotation["image_id"] - 10
        (w, h), (x, y, bw, bh) = SIZES[row], annotation["bbox"]
        values = [(x + bw / 2) / w, (y + bh / 2) / h, bw / w, bh / h]
        if polygons:
            corners = [(x, y), (x + bw, y), (x + bw, y + bh), (x, y + bh)]
            values = [v for cx, cy in corners for v in (cx / w, cy / h)]
        with open(folder / f"p{row}.txt", "a") as file:
            print(number[annotation["category_id"]], *values, file=file)


@pytest.mark.parametrize("pattern", ["images/{}", "{}/images"])
@pytest.mark.parametrize("names", ["[cat, dog, hen]", "{0: cat, 1: dog, 2: hen}"])
def test_yolo(tmp_path, reference, pattern, names):
    root = tmp_path / "set"
    for split in ("train", "val"):
        write_images(root / pattern.format(split))
        yolo_labels(root / pattern.format(split).replace("images", "labels"), polygons=split == "val")
    # Paths of another machine, as exports carry them.
    entries = "\n".join(f"{split}: ../{pattern.format(split)}" for split in ("train", "val"))
    (root / "data.yaml").write_text(f"path: /home/me/datasets/x\n{entries}\nnc: 3\nnames: {names}\n")
    assert splits(root) == ["train", "val"]
    assert essence(root) == essence(root, "val") == reference
    dataset, _ = read(root, "val")
    polygon = dataset.images[0].segmentations[0][0]
    np.testing.assert_allclose(polygon.reshape(-1, 2).min(0), dataset.images[0].boxes[0, :2], atol=1e-4)


def test_labels_of_an_image_are_all_polygons_or_all_boxes(tmp_path):
    """Ultralytics accepts no label file with both."""
    content = records()
    content["annotations"][0]["segmentation"] = [[4, 6, 24, 6, 14, 36]]
    rle = {"size": [SIZES[0][1], SIZES[0][0]], "counts": [0, SIZES[0][0] * SIZES[0][1]]}
    crowd, masked = content["annotations"][1] | {"iscrowd": 1}, content["annotations"][1] | {"bbox": [0, 0, *SIZES[0]]}
    content["annotations"] += [a | {"id": i, "segmentation": rle} for i, a in ((200, crowd), (201, masked))]
    source = write(tmp_path / "source", content)
    lost = convert(source, tmp_path / "yolo", "yolo", masks=True).unsupported
    assert any(text.startswith("2 boxes without a polygon become rectangles") for text in lost)
    lines = [
        [line.split() for line in (p.read_text().splitlines())] for p in sorted(tmp_path.glob("yolo/labels/*/*.txt"))
    ]
    assert [[len(line) for line in own] for own in lines] == [[7, 9, 9], [5], [5], []]
    before, after = (read(root)[0].images[0] for root in (source, tmp_path / "yolo"))
    np.testing.assert_array_equal(before.boxes[~before.crowd], after.boxes)
    x, y, w, h = content["annotations"][1]["bbox"]
    np.testing.assert_allclose(after.segmentations[1][0], [x, y, x + w, y, x + w, y + h, x, y + h], atol=1e-4)
    assert not any("rectangle" in text for text in convert(source, tmp_path / "boxes", "yolo").unsupported)


def test_yolo_under_a_relative_path(tmp_path, reference, monkeypatch):
    write_images(tmp_path / "set/images/train")
    yolo_labels(tmp_path / "set/labels/train")
    (tmp_path / "set/data.yaml").write_text("train: images/train\nnames: [cat, dog, hen]\n")
    for root, place in (("set", tmp_path), (".", tmp_path / "set")):
        monkeypatch.chdir(place)
        assert essence(Path(root)) == reference
        assert not any("different name" in note for note in check(root).notes)


def test_yolo_list_of_files(tmp_path, reference):
    write_images(tmp_path / "images")
    yolo_labels(tmp_path / "labels")
    (tmp_path / "train.txt").write_text("".join(f"./images/p{i}.png\n" for i in range(4)))
    (tmp_path / "data.yaml").write_text("train: train.txt\nnames: [cat, dog, hen]\n")
    assert essence(tmp_path) == reference


def test_invalid_label_lines_are_reported(tmp_path):
    write_images(tmp_path / "images/train")
    yolo_labels(tmp_path / "labels/train")
    (tmp_path / "labels/train/p3.txt").write_text(
        "0 0.5 0.5\nx 0.5 0.5 0.2 0.2\n\n7 0.5 0.5 0.2 0.2\n0 nan 0.5 0.2 0.2\n"
    )
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [cat, dog, hen]\n")
    report = check(tmp_path)
    found = {finding["reason"]: finding["examples"] for finding in report.skipped}
    assert found["box is not four numbers"] == ["p3.txt:1"]
    assert found["box of an unknown category"] == ["p3.txt:2", "p3.txt:4"]
    assert found["box with a NaN or infinite coordinate"] == ["p3.txt:5"]
    assert "(7, x)" in report.errors[0]
    assert report.boxes == 4


def test_labels_in_pixels_are_refused(tmp_path):
    write_images(tmp_path / "images/train")
    (tmp_path / "labels/train").mkdir(parents=True)
    (tmp_path / "labels/train/p0.txt").write_text("0 20 20 10 10\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    assert any("are they in pixels" in error for error in check(tmp_path).errors)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: nowhere\nnames: [a]\n", "nowhere does not exist"),
        ("train: images\n", "'names' must list"),
        ("train: [unclosed", "not valid YAML"),
    ],
)
def test_invalid_yaml_is_refused(tmp_path, text, words):
    write_images(tmp_path / "images")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        read(tmp_path)


ALIAS_BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))


@pytest.mark.parametrize(
    "config",
    [
        *[
            f"{ALIAS_BOMB}train: *a39\nnames: [a]\n",
            f"{ALIAS_BOMB}train: images\nnames: *a39\n",
            f"{ALIAS_BOMB}train: images\nnames: {{0: *a39}}\n",
        ],
        *[
            "train: images\nnc: 1000000000\n",
            "train: 2020-13-45\nnames: [a]\n",
            "train: !!int ''\n",
            "train: !!bool x\n",
        ],
        *[
            "train: images\nnames: {²: a}\n",
            f"train: images\nnames: {{{'9' * 5000}: a}}\n",
            "train: &t [*t]\nnames: [a]\n",
        ],
        *[f"train: {'x' * 5000}\nnames: [a]\n", 'train: "\\0"\nnames: [a]\n', "train: images\npath: [1]\nnames: 5\n"],
        *["train: list.txt\nnames: [a]\n", "[" * 1000, "!!python/object/apply:os.system ['touch mark']"],
    ],
)
def test_hostile_yaml_is_refused(tmp_path, config):
    write(tmp_path, name="unused/x.json")
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "data.yaml").write_text(config)
    with pytest.raises(UserError, match=r"data\.yaml|list\.txt|not in a supported dataset format") as error:
        read(tmp_path)
    assert len(str(error.value)) < 2000


def test_endless_image_list_is_refused(tmp_path):
    (tmp_path / "data.yaml").write_text("train: /dev/zero\nval: /dev/zero\nnames: [a]\n")
    with pytest.raises(UserError, match="/dev/zero: is not a file"):
        read(tmp_path)
