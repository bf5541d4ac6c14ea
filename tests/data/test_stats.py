"""Statistics of a dataset, against known counts and torchvision."""

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou

from libradet.data.read import read
from libradet.data.stats import ASPECTS, SIDES, _overlapping, compute_stats
from tests.helpers.data_building import damaged, records, write


def shown(stats) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(stats.render("a set"))
    return console.file.getvalue()


def test_counts(tmp_path):
    dataset, _ = read(write(tmp_path))
    stats = compute_stats(dataset, "original")
    assert (stats.images, stats.boxes, stats.crowd) == (4, 4, 0)
    assert stats.classes["cat"] == {"boxes": 2, "images": 2, "median_side": pytest.approx((600**0.5 + 2400**0.5) / 2)}
    assert stats.image_sizes == {(64, 48): 2, (48, 64): 1, (50, 50): 1}
    assert stats.boxes_per_image == (1.0, 1.0, 2)
    sides = np.sqrt([600, 360, 2400, 56])
    assert stats.sides == np.histogram(sides, [0, *SIDES, np.inf])[0].tolist()
    aspects = np.array([20 / 30, 30 / 12, 40 / 60, 7 / 8])
    assert sum(stats.aspects) == 4
    assert stats.aspects[-2 - 1] == (aspects > ASPECTS[5]).sum() == 1
    assert stats.resized_side == tuple(np.percentile(sides, [5, 50, 95]))


def test_resized_side_scales_with_the_image(tmp_path):
    dataset, _ = read(damaged(tmp_path, lambda c: c["annotations"].pop()))
    original, double = compute_stats(dataset, "original"), compute_stats(dataset, (96, 1000))
    assert double.resized_side[2] == pytest.approx(2 * original.resized_side[2], rel=0.03)


def test_anchor_coverage_equals_that_of_torchvision(shared_data):
    dataset, _ = read(shared_data / "coco_cc", "val")
    stats = compute_stats(dataset, "original", ratios=(0.5, 2.0))
    generator = AnchorGenerator(sizes=((32, 64, 128, 256, 512),), aspect_ratios=((0.5, 2.0),))
    anchors = generator.cell_anchors[0]
    fits = []
    for image in dataset.images:
        boxes = torch.from_numpy(image.boxes[~image.crowd])
        centered = boxes - ((boxes[:, :2] + boxes[:, 2:]) / 2).repeat(1, 2)
        fits += (box_iou(centered, anchors).amax(1) >= 0.5).tolist()
    # torchvision rounds its anchors to whole pixels.
    assert stats.covered == pytest.approx(np.mean(fits), abs=0.01)
    assert stats.crowd == 8
    assert any("Anchors miss" in text for text in stats.advice)


def test_overlapping_boxes_of_a_class(tmp_path):
    def damage(content):
        first = content["annotations"][0]
        content["annotations"] += [
            first | {"id": 200, "bbox": [5, 7, 20, 30]},
            first | {"id": 201, "bbox": [4, 6, 20, 29], "category_id": 9},
        ]

    dataset, _ = read(damaged(tmp_path, damage))
    stats = compute_stats(dataset, "original")
    assert stats.overlapping == pytest.approx(2 / 6)
    assert any("overlap" in text for text in stats.advice)


def test_without_boxes_or_images(tmp_path):
    dataset, _ = read(damaged(tmp_path, lambda c: c["annotations"].clear()), training=False)
    assert compute_stats(dataset).advice == ["There are no boxes."]
    assert "without any box" in shown(compute_stats(dataset))
    dataset.images.clear()
    assert compute_stats(dataset).boxes_per_image == (0.0, 0.0, 0)


def test_summary_and_json(tmp_path):
    content = records()
    content["categories"].append({"id": 50, "name": "[bold]cow"})
    stats = compute_stats(read(write(tmp_path, content))[0])
    text = shown(stats)
    for part in ("a set", "48x64 (1)", "cat", "without any box: [bold]cow", ">= 512", "at most 2"):
        assert part in text
    assert json.loads(json.dumps(stats.to_json()))["image_sizes"] == {"64x48": 2, "48x64": 1, "50x50": 1}


@given(st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_overlapping_equals_pairwise_iou_of_torchvision(seed, count):
    generator = np.random.default_rng(seed)
    corner, side = generator.integers(0, 20, (count, 2)), generator.integers(5, 15, (count, 2))
    boxes = np.concatenate([corner, corner + side], 1).astype(np.float64)
    owner, labels = np.sort(generator.integers(0, 4, count)), generator.integers(0, 3, count)
    alike = (owner[:, None] == owner) & (labels[:, None] == labels) & ~np.eye(count, dtype=bool)
    expected = (box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy() > 0.5) & alike
    assert _overlapping(boxes, owner, labels) == pytest.approx(expected.any(1).mean() if count else 0)
