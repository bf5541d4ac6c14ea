"""labelme's JSON files, and those of AnyLabeling and X-AnyLabeling."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from libradet.data.masks import decode_masks
from libradet.data.read import check, read, splits
from libradet.errors import UserError

WIDTH, HEIGHT = 100, 80


def shape(kind, *points, label="cat", **fields):
    return {"label": label, "points": [list(p) for p in points], "group_id": None, "shape_type": kind} | fields


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def write(file, *shapes, image="a.png", draw=True, **fields):
    """Write a JSON file as labelme does, and its image."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if draw:
        path = file.parent / image.replace("\\", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(path)
    content = {"version": "6.3.1", "flags": {}, "shapes": list(shapes), "imagePath": image, "imageData": None}
    file.write_text(json.dumps(content | {"imageHeight": HEIGHT, "imageWidth": WIDTH} | fields))
    return file.parent


@pytest.mark.parametrize(
    ("drawn", "box"),
    [
        (shape("rectangle", (40.5, 60.25), (10, 20)), [10, 20, 40.5, 60.25]),
        (shape("rectangle", (10, 20), (40, 20), (40, 60), (10, 60)), [10, 20, 40, 60]),
        (shape("polygon", (50, 10), (90, 10), (90, 30)), [50, 10, 90, 30]),
        (shape(None, (50, 10), (90, 10), (90, 30)), [50, 10, 90, 30]),
        (shape("rotation", (50, 30), (70, 40), (65, 50), (45, 40), direction=0.46), [45, 30, 70, 50]),
        (shape("oriented_rectangle", (50, 30), (70, 40), (65, 50), (45, 40)), [45, 30, 70, 50]),
        (shape("circle", (50, 40), (53, 44)), [45, 35, 55, 45]),
    ],
)
def test_boxes(tmp_path, drawn, box):
    (image,) = read(write(tmp_path / "a.json", drawn))[0].images
    np.testing.assert_allclose(image.boxes, [box], atol=1e-5)


@pytest.mark.parametrize("value", [1, 255])
def test_masks(tmp_path, value):
    pixels = np.zeros((12, 20), np.uint8)
    pixels[2:9, 3:17] = value
    (image,) = read(write(tmp_path / "a.json", shape("mask", (30, 40), (49, 51), mask=png(pixels))))[0].images
    assert image.boxes.tolist() == [[33, 42, 47, 49]]
    mask = decode_masks(image, HEIGHT, WIDTH)[0].numpy()
    assert mask[42:49, 33:47].all()
    assert mask.sum() == 7 * 14


def test_shapes_of_a_group_are_one_object(tmp_path):
    triangles = [(10, 10), (20, 10), (20, 20)], [(40, 30), (50, 30), (50, 44)]
    parts = [shape("polygon", *points, group_id=1) for points in triangles]
    other = shape("polygon", (60, 60), (70, 60), (70, 70), group_id=1, label="dog")
    dataset, report = read(write(tmp_path / "a.json", *parts, other))
    (image,) = dataset.images
    assert image.boxes.tolist() == [[10, 10, 50, 44], [60, 60, 70, 70]]
    assert [len(polygons) for polygons in image.segmentations] == [2, 1]
    assert "2 shapes with a group_id are parts of 1 object" in report.notes


def test_mask_and_polygon_of_one_object(tmp_path):
    mask = shape("mask", (30, 40), (32, 42), mask=png(np.ones((3, 3), np.uint8)), group_id=1)
    square = shape("polygon", (10, 10), (20, 10), (20, 20), (10, 20), group_id=1)
    (image,) = read(write(tmp_path / "a.json", mask, square))[0].images
    assert image.boxes.tolist() == [[10, 10, 33, 43]]
    decoded = decode_masks(image, HEIGHT, WIDTH)[0]
    assert int(decoded.sum()) == 9 + 100


def test_shapes_without_box_are_counted(tmp_path):
    others = [
        shape("point", (1, 2)),
        shape("line", (1, 2), (3, 4)),
        shape("linestrip", (1, 2), (3, 4)),
        shape("cuboid"),
    ]
    ignored = shape("polygon", (0, 0), (9, 0), (9, 9), label="__ignore__")
    root = write(tmp_path / "a.json", *others, ignored, shape("rectangle", (1, 2), (30, 40)))
    dataset, report = read(root)
    assert len(dataset.images[0].boxes) == 1
    for text in (
        "1 point shape has",
        "1 line shape has",
        "1 linestrip shape has",
        "1 cuboid shape has",
        "1 __ignore__ shape is",
    ):
        assert any(text in note for note in report.notes)


def test_invalid_shapes_are_counted(tmp_path):
    invalid = [
        shape("rectangle", (1, 2)),
        shape("mask", (1, 2), mask="AAAA"),
        shape("polygon"),
        shape("circle", (1, 2)),
    ]
    invalid += [shape("mask", (1, 2), mask=png(np.zeros((3, 3), np.uint8))), shape("rectangle", ("a", 2), (3, 4))]
    report = read(write(tmp_path / "a.json", *invalid, shape("rectangle", (1, 2), (30, 40))))[1]
    assert (report.boxes, report.skipped[0]["count"]) == (1, len(invalid))
    assert "a.json, shape 1" in report.skipped[0]["examples"]


def test_difficult_objects_are_crowd_regions(tmp_path):
    boxes = [(1, 2), (30, 40)], [(5, 6), (50, 60)], [(7, 8), (70, 71)]
    fields = {"difficult": True}, {"flags": {"iscrowd": True}}, {"difficult": False, "flags": {}}
    shapes = [shape("rectangle", *points, **more) for points, more in zip(boxes, fields, strict=True)]
    assert read(write(tmp_path / "a.json", *shapes))[0].images[0].crowd.tolist() == [True, True, False]


def test_order_of_classes(tmp_path):
    shapes = [shape("rectangle", (1, 2), (30, 40), label=label) for label in ("dog", "cat", "emu")]
    root = write(tmp_path / "a.json", *shapes)
    assert read(root)[0].class_names == ["cat", "dog", "emu"]
    (root / "labels.txt").write_text("__ignore__\n_background_\nhen\ndog\ncat\n")
    dataset, report = read(root)
    assert dataset.class_names == ["hen", "dog", "cat", "emu"]
    assert dataset.images[0].labels.tolist() == [1, 2, 3]
    assert "1 labels are not in labels.txt: emu" in report.notes


def test_split_folders_number_classes_alike(tmp_path):
    write(tmp_path / "train" / "a.json", shape("rectangle", (1, 2), (30, 40), label="dog"))
    write(tmp_path / "val" / "b.json", shape("rectangle", (1, 2), (30, 40), label="cat"), image="b.png")
    assert splits(tmp_path) == ["train", "val"]
    assert read(tmp_path, "train")[0].class_names == read(tmp_path, "val")[0].class_names == ["cat", "dog"]
    write(tmp_path / "c.json", shape("rectangle", (1, 2), (30, 40)), image="c.png")
    assert splits(tmp_path) == ["train", "val", "others"]


@pytest.mark.parametrize(
    ("file", "image", "image_path"),
    [
        ("annotations/a.json", "images/a.png", "..\\images\\a.png"),
        ("annotations/train/a.json", "images/train/a.png", "D:\\work\\a.png"),
        ("labels/a.json", "images/A.png", "a.png"),
        ("a.json", "a.png", "renamed.jpg"),
        ("one/a.json", "one/a.png", "a.png"),
    ],
)
def test_images_in_other_folders(tmp_path, file, image, image_path):
    (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / image)
    write(tmp_path / file, shape("rectangle", (1, 2), (30, 40)), image=image_path, draw=False)
    dataset, _ = read(tmp_path)
    assert [record.path for record in dataset.images] == [tmp_path / image]


def test_same_name_in_two_folders(tmp_path):
    for name, x in (("one", 1), ("two", 5)):
        write(tmp_path / name / "a.json", shape("rectangle", (x, 2), (30, 40)))
    images = read(tmp_path)[0].images
    assert [(image.path.parent.name, image.boxes[0, 0]) for image in images] == [("one", 1), ("two", 5)]


def test_images_without_json_are_background(tmp_path):
    write(tmp_path / "a.json", shape("rectangle", (1, 2), (30, 40)))
    Image.new("RGB", (30, 20)).save(tmp_path / "b.png")
    dataset, report = read(tmp_path)
    assert [len(image.boxes) for image in dataset.images] == [1, 0]
    assert "1 image has no JSON file: used as background" in report.notes


def test_images_of_another_split_are_no_background(tmp_path):
    for split, name in (("train", "a"), ("val", "b")):
        file = tmp_path / "annotations" / split / f"{name}.json"
        write(file, shape("rectangle", (1, 2), (30, 40)), image=f"../../images/{name}.png")
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "c.png")
    dataset, report = read(tmp_path, "train")
    assert [image.path.name for image in dataset.images] == ["a.png"]
    assert "1 image without a JSON file is in a folder of several splits: not used" in report.notes


def test_embedded_images_must_be_files(tmp_path):
    root = write(tmp_path / "a.json", shape("rectangle", (1, 2), (30, 40)), draw=False, imageData="AAAA")
    report = check(root)
    assert "1 of 1 image files are missing" in report.errors[0]
    assert any("embedded" in note for note in report.notes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"shapes": {}, "imagePath": "a.png"}, "'shapes' is not a list"),
        ({"shapes": [{"points": []}], "imagePath": "a.png"}, "shape 1 has no label"),
    ],
)
def test_damaged_files_are_refused(tmp_path, content, message):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read(tmp_path)
