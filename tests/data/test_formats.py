"""The same images and boxes, read from every layout."""

import json
from pathlib import Path

import numpy as np
import pytest
from data_building import SIZES, records, write, write_images

from libradet.data.read import check, read, splits
from libradet.errors import UserError


def essence(root: Path, split: str | None = None) -> list:
    """What a dataset is made of, whatever its numbering: file names, class names, boxes."""
    dataset, report = read(root, split)
    assert report.skipped + report.warnings == []
    return [
        (p.path.name, p.width, p.height, [dataset.class_names[k] for k in p.labels], p.boxes.round(3).tolist())
        for p in sorted(dataset.images, key=lambda p: p.path.name)
    ]


@pytest.fixture
def reference(tmp_path) -> list:
    return essence(write(tmp_path / "reference"))


@pytest.mark.parametrize("folder", ["images", "images/train", "train", "."])
def test_train_and_val(tmp_path, reference, folder):
    root = tmp_path / "set"
    write(root, name="train.json", images=folder)
    write(root, name="val.json", images=folder.replace("train", "val"))
    assert splits(root) == ["train", "val"]
    assert essence(root) == essence(root, "train") == essence(root, "val") == reference


def test_single_file_serves_any_split(tmp_path, reference):
    root = write(tmp_path / "set")
    assert splits(root) == ["all"]
    assert essence(root) == essence(root, "train") == essence(root, "val") == reference
    assert essence(root / "annotations.json") == reference


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco(tmp_path, reference, year):
    root = tmp_path / "coco"
    for split in ("train", "val"):
        write(root, name=f"annotations/instances_{split}{year}.json", images=f"{split}{year}")
    write(root, [], name=f"annotations/captions_train{year}.json", images=f"train{year}")
    assert splits(root) == [f"train{year}", f"val{year}"]
    assert essence(root) == essence(root, "train") == essence(root, f"val{year}") == essence(root, "val") == reference
    assert essence(root / "annotations" / f"instances_val{year}.json") == reference


def test_coco_file_of_any_name_with_one_image_folder(tmp_path, reference):
    root = write(tmp_path / "set", name="annotations/instances_default.json", images="images")
    assert essence(root) == essence(root, "val") == reference


def test_roboflow(tmp_path, reference):
    root = tmp_path / "set"
    content = records()
    for category in content["categories"]:
        category["supercategory"] = "animals"
    content["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
    for split in ("train", "valid", "test"):
        write(root, content, name=f"{split}/_annotations.coco.json", images=split)
    assert splits(root) == ["train", "valid", "test"]
    assert essence(root) == essence(root, "val") == essence(root, "valid") == essence(root, "test") == reference


def test_roboflow_category_with_boxes_is_a_class(tmp_path):
    content = records()
    content["categories"] = [{"id": i, "name": f"c{i}", "supercategory": "none"} for i in (1, 7, 9)]
    dataset, _ = read(write(tmp_path, content, name="train/_annotations.coco.json", images="train"))
    assert dataset.class_names == ["c1", "c7", "c9"]


def yolo_labels(folder: Path, polygons: bool = False) -> None:
    """Label files for :func:`records`, classes cat, dog, hen."""
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


def test_yolo_lines_that_are_wrong_are_named(tmp_path):
    write_images(tmp_path / "images/train")
    yolo_labels(tmp_path / "labels/train")
    (tmp_path / "labels/train/p3.txt").write_text(
        "0 0.5 0.5\nx 0.5 0.5 0.2 0.2\n\n7 0.5 0.5 0.2 0.2\n0 nan 0.5 0.2 0.2\n"
    )
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [cat, dog, hen]\n")
    report = check(tmp_path)
    found = {finding["what"]: finding["examples"] for finding in report.skipped}
    assert found["box is not four numbers"] == ["p3.txt:1"]
    assert found["box of an unknown category"] == ["p3.txt:2", "p3.txt:4"]
    assert found["box with a NaN or infinite coordinate"] == ["p3.txt:5"]
    assert "(7, x)" in report.errors[0]
    assert report.boxes == 4


def test_yolo_with_pixels_instead_of_fractions(tmp_path):
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
def test_yolo_trouble_in_the_yaml(tmp_path, text, words):
    write_images(tmp_path / "images")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        read(tmp_path)


def voc_files(folder: Path, difficult: int = 0) -> None:
    """XML files for :func:`records`."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {1: "cat", 7: "dog", 9: "hen"}
    for row, (w, h) in enumerate(SIZES):
        objects = ""
        for annotation in records()["annotations"]:
            if annotation["image_id"] == 10 + row:
                x, y, bw, bh = annotation["bbox"]
                corners = {"xmin": x, "ymin": y, "xmax": x + bw, "ymax": y + bh}
                box = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
                name = names[annotation["category_id"]]
                objects += (
                    f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"
                )
        size = f"<size><width>{w}</width><height>{h}</height></size>"
        text = f"<annotation><filename>p{row}.png</filename>{size}{objects}</annotation>"
        (folder / f"p{row}.xml").write_text(text)


@pytest.mark.parametrize("home", [".", "VOCdevkit/VOC2007"])
def test_voc(tmp_path, reference, home):
    root = tmp_path / "set"
    write_images(root / home / "JPEGImages")
    voc_files(root / home / "Annotations")
    lists = root / home / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("p0\np1\np2\np3\n")
    (lists / "val.txt").write_text("p2\n")
    (lists / "cat_train.txt").write_text("p0 1\n")
    assert splits(root) == ["train", "val"]
    assert essence(root) == reference
    assert essence(root, "val") == [reference[2]]
    # Both splits number the classes alike, though only one of the three occurs here.
    assert read(root, "val")[0].class_names == ["cat", "dog", "hen"]


def test_voc_images_beside_the_xml(tmp_path, reference):
    write_images(tmp_path / "train")
    voc_files(tmp_path / "train")
    write_images(tmp_path / "flat")
    voc_files(tmp_path / "flat")
    assert splits(tmp_path) == ["train"]
    assert essence(tmp_path) == reference
    assert essence(tmp_path / "flat") == reference


def test_voc_difficult_objects_are_crowd(tmp_path):
    write_images(tmp_path / "JPEGImages")
    voc_files(tmp_path / "Annotations", difficult=1)
    dataset, report = read(tmp_path, strict=False)
    assert all(p.crowd.all() for p in dataset.images)
    assert any("difficult" in note for note in report.notes)
    assert any("no boxes to train on" in error for error in report.errors)


def test_nothing_recognized(tmp_path):
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(UserError, match=r"(?s)no dataset recognized.*train.json.*data\.yaml.*Annotations"):
        read(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="neither a folder nor a JSON"):
        read(tmp_path / "readme.txt")


def test_split_that_is_not_there(tmp_path):
    write(tmp_path, name="train.json")
    with pytest.raises(UserError, match="no split 'val', only train"):
        read(tmp_path, "val")


def test_real_sets(shared_data):
    for name in ("bccd", "deeppcb", "coco_cc"):
        assert splits(shared_data / name) == ["train", "val"]
        dataset, report = read(shared_data / name, "train")
        content = json.loads((shared_data / name / "train.json").read_text())
        assert report.skipped + report.warnings + report.errors == []
        assert (report.images, report.boxes) == (len(content["images"]), len(content["annotations"]))
        assert len(dataset.class_names) == len(content["categories"])
