"""Rotated boxes in the exports of CVAT, and where they are no rotated boxes."""

import json

import numpy as np
import pytest
from PIL import Image

from libradet.data.convert import convert
from libradet.data.formats.rotation import parse_rotation, rotation_of, upright_box
from libradet.data.read import check, read

BOX, ANGLE, SIZE = (30.0, 35.0, 40.0, 10.0), 30.0, (100, 80)


def around_corners(box, degrees):
    """Rotate the corners around the center, as CVAT draws them."""
    x, y, w, h = box
    angle, center = np.deg2rad(degrees), np.array([x + w / 2, y + h / 2])
    corners = np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)]) - center
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rotated = corners @ matrix.T + center
    return np.concatenate([rotated.min(0), rotated.max(0)])


def attributes(angle):
    return {"occluded": False, "rotation": angle}


def write_coco(root, angle, **fields):
    record = {"id": 1, "image_id": 1, "category_id": 1, "bbox": list(BOX), "area": 400.0, "iscrowd": 0}
    record |= {"segmentation": [], "attributes": attributes(angle)} | fields
    image = {"id": 1, "file_name": "a.png", "width": SIZE[0], "height": SIZE[1]}
    content = {"images": [image], "annotations": [record], "categories": [{"id": 1, "name": "cat"}]}
    write(root, "annotations/instances_default.json", json.dumps(content), "images/default/a.png")


def write_voc(root, angle):
    x, y, w, h = BOX
    corners = f"<xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
    named = f"<attributes><attribute><name>rotation</name><value>{angle}</value></attribute></attributes>"
    node = f"<object><name>cat</name><bndbox>{corners}</bndbox>{named}</object>"
    write(root, "Annotations/a.xml", f"<annotation><filename>a.png</filename>{node}</annotation>", "JPEGImages/a.png")


def write_datumaro(root, angle):
    box = {"id": 1, "type": "bbox", "label_id": 0, "group": 0, "bbox": list(BOX), "attributes": attributes(angle)}
    item = {"id": "a", "annotations": [box], "image": {"path": "a.png", "size": [SIZE[1], SIZE[0]]}}
    labels = {"label": {"labels": [{"name": "cat"}]}}
    content = json.dumps({"dm_format_version": "1.0", "categories": labels, "items": [item]})
    write(root, "annotations/default.json", content, "images/default/a.png")


def write(root, name, text, image):
    for path in (root / name, root / image):
        path.parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    Image.new("RGB", SIZE).save(root / image)


@pytest.mark.parametrize("write_export", [write_coco, write_voc, write_datumaro])
@pytest.mark.parametrize(("angle", "notes"), [(0.0, 0), (ANGLE, 1), (180.0, 0), (335.5, 1)])
def test_box_of_the_export_encloses_the_rotated_one(tmp_path, write_export, angle, notes):
    write_export(tmp_path, angle)
    dataset, report = read(tmp_path)
    np.testing.assert_allclose(dataset.images[0].boxes, [around_corners(BOX, angle)], atol=1e-4)
    note = "1 box is rotated (attribute 'rotation'): read as the upright box around it"
    assert report.notes.count(note) == notes


def test_a_converted_box_is_not_rotated_again(tmp_path):
    write_coco(tmp_path / "cvat", ANGLE)
    convert(tmp_path / "cvat", tmp_path / "coco", "coco")
    boxes = [read(tmp_path / name)[0].images[0].boxes for name in ("cvat", "coco")]
    np.testing.assert_array_equal(*boxes)


def test_box_of_a_mask_is_upright_already(tmp_path):
    write_coco(tmp_path, ANGLE, segmentation=[[30, 35, 70, 35, 70, 45]])
    np.testing.assert_allclose(read(tmp_path)[0].images[0].boxes, [(30, 35, 70, 45)])


@pytest.mark.parametrize("box", [None, [1, 2], "abc", [10, 10, -5, 20]])
def test_what_is_no_box_is_reported(tmp_path, box):
    write_coco(tmp_path, ANGLE, bbox=box)
    assert [finding["count"] for finding in check(tmp_path).skipped] == [1]


@pytest.mark.parametrize(
    ("value", "expected"), [(None, 0), ("", 0), ("left", 0), ([1], 0), (float("nan"), 0), ("45.0", 45), (-90, 90)]
)
def test_angles(value, expected):
    assert parse_rotation(value) == expected
    assert rotation_of(attributes(value)) == expected
    assert rotation_of({"rotation": value}) == 0, "an attribute of somebody else"


def test_upright_box():
    np.testing.assert_allclose(upright_box(BOX, 90.0), (45, 20, 10, 40), atol=1e-12)
