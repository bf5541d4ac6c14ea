"""Synthetic dataset: reproducible, valid, and with the stated difficulty."""

import json

import numpy as np
import pytest
from hotcoco import mask as rle
from PIL import Image
from scipy import stats

from libradet.data.read import check, read
from libradet.data.synthesis.synthetic import MIN_SIDE, Imbalance, _choose_shapes, draw_scene, synthesize
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


def labels_of_scenes(count, classes, imbalance):
    """Labels of the shapes that are to be drawn in many images; -1 for distractors."""
    shapes = [_choose_shapes(np.random.default_rng([5, i]), 200, classes, imbalance) for i in range(count)]
    return [np.array([shape.label for shape in scene]) for scene in shapes]


@pytest.mark.parametrize("skew", [0.0, 1.0, 1.5])
def test_class_frequencies_follow_zipf(skew):
    labels = np.concatenate(labels_of_scenes(500, 8, Imbalance(class_skew=skew)))
    counts = np.bincount(labels[labels >= 0], minlength=8)
    expected = np.arange(1.0, 9) ** -skew
    assert stats.chisquare(counts, expected / expected.sum() * counts.sum()).pvalue > 1e-4


@pytest.mark.parametrize("share", [0.5, 1.0, 1.7])
def test_hard_negatives_are_a_share_of_the_objects(share):
    plain, hard = (labels_of_scenes(500, 5, Imbalance(hard_negatives=n)) for n in (0.0, share))
    added = np.array([(b < 0).sum() - (a < 0).sum() for a, b in zip(plain, hard, strict=True)])
    objects = np.array([(b >= 0).sum() for b in hard])
    assert (np.abs(added - share * objects) < 1).all()  # rounded down or up
    assert added.mean() == pytest.approx(share * objects.mean(), abs=0.1)


def test_only_training_images_are_skewed(tmp_path):
    draw(tmp_path, train=40, val=40, size=(80, 80), class_skew=2.0)
    counts = []
    for split in ("train", "val"):
        annotations = json.loads((tmp_path / f"{split}.json").read_text())["annotations"]
        counts.append(np.bincount([a["category_id"] for a in annotations], minlength=5)[1:])
    assert counts[0][0] > 8 * counts[0][3]
    assert counts[1].max() < 3 * counts[1].min()


def test_without_dials_images_stay_the_same(tmp_path):
    plain = draw(tmp_path / "a")
    assert draw(tmp_path / "b", class_skew=0.0, hard_negatives=0.0) == plain
    assert draw(tmp_path / "c", hard_negatives=1.0) != plain
    val = {name for name in plain if name.name.startswith("val_")}
    skewed = draw(tmp_path / "d", class_skew=1.0)
    assert all(skewed[name] == plain[name] for name in val)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": 0},
        {"seed": 2**32},
        {"classes": 9},
        {"size": (40, 400)},
        {"size": (66000, 80)},
        {"size": (128,)},
        {"val": 0},
        {"class_skew": -1.0},
        {"hard_negatives": 6.0},
        {"class_skew": float("nan")},
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, changes):
    with pytest.raises(UserError):
        draw(tmp_path, **changes)
    assert not any(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    scenes = iter(range(3))

    def interrupted(*args):
        if next(scenes, None) is None:
            raise KeyboardInterrupt
        return draw_scene(*args)

    monkeypatch.setattr("libradet.data.synthesis.synthetic.draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "new" / "dataset")
    assert not any(tmp_path.iterdir())


def test_files_are_ordinary_jpegs(tmp_path):
    draw(tmp_path, train=1, val=1)
    with Image.open(tmp_path / "images" / "train_00000.jpg") as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (128, 96))
