"""Datumaro's JSON format."""

import json

import numpy as np
import pytest
from hotcoco import mask as rle
from PIL import Image

from libradet.data.masks import decode_masks
from libradet.data.read import check, read, splits
from libradet.errors import UserError

WIDTH, HEIGHT = 100, 80
LABELS = ("zebra", "ant", "bee")


def annotation(kind, label=0, group=0, attributes=None, **fields):
    return {"id": 0, "type": kind, "attributes": attributes or {}, "group": group, "label_id": label} | fields


def box(*values, **fields):
    return annotation("bbox", bbox=list(values), z_order=0, **fields)


def polygon(*points, **fields):
    return annotation("polygon", points=list(points), z_order=0, **fields)


def mask(y, x, h, w, **fields):
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    pixels[y : y + h, x : x + w] = 1
    counts = rle.encode(pixels)["counts"]
    counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return annotation("mask", rle={"counts": counts, "size": [HEIGHT, WIDTH]}, **fields)


def item(*annotations, name="a", path="a.jpg", **fields):
    image = {"path": path, "size": [HEIGHT, WIDTH]}
    return {"id": name, "annotations": list(annotations), "image": image} | fields


def write(root, *items, subset="train", labels=LABELS, folder="images/{subset}"):
    for content in items:
        if image := content.get("image"):
            name = image["path"].replace("\\", "/").removeprefix("C:/") or f"{content['id']}.png"
            path = root / folder.format(subset=subset) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT)).save(path)
    names = {"labels": [{"name": name, "parent": "", "attributes": []} for name in labels], "attributes": []}
    content = {"dm_format_version": "1.0", "media_type": 2, "infos": {}, "categories": {"label": names}}
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"{subset}.json").write_text(json.dumps(content | {"items": list(items)}))
    return root


def read_image(root):
    dataset, report = read(root)
    (image,) = dataset.images
    return image, report


def test_boxes_and_classes(tmp_path):
    root = write(tmp_path, item(box(10.25, 20.5, 30.13, 40.75, label=1), box(1, 2, 3, 4, label=0)))
    image, _ = read_image(root)
    np.testing.assert_allclose(image.boxes, [[10.25, 20.5, 40.38, 61.25], [1, 2, 4, 6]], atol=1e-5)
    assert read(root)[0].class_names == list(LABELS)
    assert image.labels.tolist() == [1, 0]


def test_other_shapes(tmp_path):
    ellipse = annotation("ellipse", points=[10.0, 12.0, 30.0, 20.0])
    others = [annotation("points", points=[1, 2]), annotation("label"), annotation("label"), annotation("polyline")]
    root = write(tmp_path, item(polygon(50, 10, 90, 10, 90, 30), ellipse, mask(10, 30, 10, 15), *others))
    image, report = read_image(root)
    assert image.boxes.tolist() == [[50, 10, 90, 30], [10, 12, 30, 20], [30, 10, 45, 20]]
    assert decode_masks(image, HEIGHT, WIDTH, use_boxes=True)[2].sum() == 150
    for text in ("1 points annotation:", "2 label annotations:", "1 polyline annotation:"):
        assert any(text in note for note in report.notes)


def test_groups(tmp_path):
    parts = polygon(10, 10, 20, 10, 20, 20, group=1), polygon(40, 40, 60, 40, 60, 60, group=1)
    other_label = polygon(1, 1, 9, 1, 9, 9, group=1, label=2)
    with_box = box(5, 6, 70, 60, group=2), mask(30, 30, 4, 4, group=2), polygon(50, 50, 60, 50, 60, 60, group=2)
    image, _ = read_image(write(tmp_path, item(*parts, other_label, *with_box)))
    assert image.boxes.tolist() == [[10, 10, 60, 60], [1, 1, 9, 9], [5, 6, 75, 66]]
    masks = decode_masks(image, HEIGHT, WIDTH)
    assert masks[0, 15, 19]
    assert masks[0, 45, 59]
    assert masks[2, 30:34, 30:34].all()
    assert masks[2, 52, 58]


def test_boxes_of_a_group_remain_objects(tmp_path):
    boxes = box(1, 2, 3, 4, group=1), box(10, 20, 30, 40, group=1), box(5, 6, 7, 8, group=1, label=1)
    image, _ = read_image(write(tmp_path, item(*boxes)))
    assert sorted(image.boxes.tolist()) == [[1, 2, 4, 6], [5, 6, 12, 14], [10, 20, 40, 60]]


@pytest.mark.parametrize("attributes", [{"is_crowd": True}, {"difficult": True}, {"is_crowd": 1}])
def test_crowd(tmp_path, attributes):
    boxes = box(1, 2, 3, 4, attributes=attributes), box(5, 6, 7, 8, attributes={"is_crowd": False, "occluded": True})
    assert read_image(write(tmp_path, item(*boxes)))[0].crowd.tolist() == [True, False]


def test_subsets_are_splits(tmp_path):
    write(tmp_path, item(box(1, 2, 3, 4)), subset="train")
    write(tmp_path, item(box(1, 2, 3, 4), path="b.jpg"), subset="Validation")
    assert splits(tmp_path) == ["train", "Validation"]
    assert not check(tmp_path).errors


def test_default_subset_is_the_only_split(tmp_path):
    assert splits(write(tmp_path, item(box(1, 2, 3, 4)), subset="default")) == ["all"]


@pytest.mark.parametrize("folder", ["images/{subset}", "images", "."])
@pytest.mark.parametrize("path", ["s_b.jpg", "s/b.jpg", "C:\\s\\b.jpg", ""])
def test_images(tmp_path, folder, path):
    root = write(tmp_path, item(box(1, 2, 3, 4), name="s/b", path=path), folder=folder)
    assert read_image(root)[0].path.name.endswith("b.png" if not path else "b.jpg")


def test_image_ids_of_coco_are_kept(tmp_path):
    items = [item(box(1, 2, 3, 4), path=f"{name}.jpg", attr={"id": i}) for name, i in (("a", 42), ("b", 7))]
    assert [image.id for image in read(write(tmp_path, *items))[0].images] == [42, 7]
    items[1]["attr"] = {"id": 42}
    assert [image.id for image in read(write(tmp_path, *items))[0].images] == [1, 2]


def test_invalid_annotations_are_counted(tmp_path):
    broken = mask(1, 1, 4, 4, group=1)
    broken["rle"]["size"] = [4, 4]
    invalid = [box(1, 2, 3), box("a", 2, 3, 4), polygon(1, 2, 3), broken, annotation("ellipse", points=[1])]
    report = read(write(tmp_path, item(box(1, 2, 3, 4), *invalid)))[1]
    assert (report.boxes, report.skipped[0]["count"]) == (1, len(invalid))
    assert "item a, annotation 2" in report.skipped[0]["examples"]


def test_items_without_image_are_counted(tmp_path):
    video = {"id": "v", "annotations": [], "video_frame": {"video_path": "v.mp4", "frame_index": 3}}
    report = read(write(tmp_path, item(box(1, 2, 3, 4)), video))[1]
    assert any("1 item without an image" in note for note in report.notes)


def test_files_that_are_refused(tmp_path):
    root = write(tmp_path, item(box(1, 2, 3, 4)), labels=())
    assert "category ids" in check(root).errors[0] or "categories" in check(root).errors[0]
    file = root / "annotations" / "train.json"
    file.write_text('{"categories": {}, "items": []}')
    with pytest.raises(UserError, match="no labels in 'categories'"):
        read(root)
    file.write_text('{"categories": {}, "items": {}}')
    with pytest.raises(UserError, match="'items' is not a list"):
        read(root)


def test_coco_files_remain_coco(tmp_path):
    content = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "cat"}]}
    content["annotations"] = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "a.png")
    (tmp_path / "annotations" / "data.json").write_text(json.dumps(content))
    assert read(tmp_path)[1].boxes == 1


@pytest.mark.parametrize("value", [[1], {"a": 1}, "x", True, 10**30])
def test_groups_and_labels_of_other_types(tmp_path, value):
    root = write(tmp_path, item(box(1, 2, 3, 4), box(5, 6, 7, 8, group=value), box(5, 6, 7, 8, label=value, group=1)))
    report = check(root)
    assert report.boxes == 2 or "category ids" in report.errors[0]
