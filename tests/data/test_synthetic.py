"""Synthetic dataset: reproducible, valid, and with the stated difficulty."""

import json

import numpy as np
import pytest
from hotcoco import mask as rle
from PIL import Image

from libradet.data.read import check, read
from libradet.data.synthesis.synthetic import MIN_SIDE, draw_scene, synthesize
from libradet.errors import UserError


def draw(root, **changes):
    synthesize(root, **({"train": 6, "val": 4, "size": (128, 96), "classes": 4} | changes))
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_same_seed_same_bytes(tmp_path):
    first = draw(tmp_path / "a")
    assert len(first) == 12
    assert first == draw(tmp_path / "b")
    assert first != draw(tmp_path / "c", seed=1)


def test_larger_dataset_starts_with_the_smaller_one(tmp_path):
    small, large = draw(tmp_path / "a"), draw(tmp_path / "b", train=7)
    assert all(large[name] == content for name, content in small.items() if name.suffix == ".jpg")


def test_synthetic_dataset_is_valid(tmp_path):
    draw(tmp_path)
    report = check(tmp_path)
    assert report.skipped + report.warnings + report.errors == []
    assert report.images == 10
    assert all(count > 0 for count in report.classes.values())
    assert list(report.classes) == ["ball", "crate", "leaf", "star"]


def test_splits_share_no_image(tmp_path):
    found = draw(tmp_path)
    images = [content for name, content in found.items() if name.suffix == ".jpg"]
    assert len(set(images)) == len(images)


def test_boxes_are_tight_around_visible_pixels(tmp_path):
    draw(tmp_path)
    for annotation in json.loads((tmp_path / "train.json").read_text())["annotations"]:
        mask = rle.decode(annotation["segmentation"])
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        left, top, width, height = annotation["bbox"]
        assert (left, top) == (columns[0], rows[0])
        assert (left + width, top + height) == (columns[-1] + 1, rows[-1] + 1)
        assert annotation["area"] == mask.sum()


def test_masks_of_an_image_are_disjoint(tmp_path):
    draw(tmp_path)
    dataset, _ = read(tmp_path, "train")
    for image in dataset.images:
        masks = [rle.decode(s) for s in image.segmentations]
        assert sum(masks).max(initial=0) <= 1


def test_object_sizes():
    noise = np.random.default_rng(0)
    boxes = np.array([a["bbox"] for _ in range(30) for a in draw_scene(noise, (320, 256), 5)[1]])
    longer = boxes[:, 2:].max(1)
    assert MIN_SIDE * 0.75 <= longer.min() < 20
    assert 100 < longer.max() < 190
    assert 24 < np.median(longer) < 90


def test_objects_overlap_but_stay_visible():
    """The visible part of every object covers much of its box."""
    noise = np.random.default_rng(1)
    touching = 0
    for _ in range(15):
        _, objects = draw_scene(noise, (320, 256), 5)
        boxes = np.array([o["bbox"] for o in objects], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        low, high = np.maximum(boxes[:, None, :2], boxes[:, :2]), np.minimum(boxes[:, None, 2:], boxes[:, 2:])
        touching += ((high - low).clip(0).prod(2) > 0).sum() - len(boxes)
        assert all(o["area"] > 0.08 * o["bbox"][2] * o["bbox"][3] for o in objects)
    assert touching > 8


def test_brightness_and_contrast():
    noise = np.random.default_rng(2)
    for _ in range(20):
        pixels, _ = draw_scene(noise, (160, 128), 8)
        assert pixels.shape == (128, 160, 3)
        assert 20 < pixels.mean() < 235
        assert pixels.std() > 8


@pytest.mark.parametrize("changes", [{"classes": 0}, {"classes": 9}, {"size": (40, 400)}, {"val": 0}])
def test_numbers_out_of_range_are_refused(tmp_path, changes):
    with pytest.raises(UserError):
        draw(tmp_path, **changes)


def test_files_are_ordinary_jpegs(tmp_path):
    draw(tmp_path, train=1, val=1)
    with Image.open(tmp_path / "images" / "train_00000.jpg") as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (128, 96))
