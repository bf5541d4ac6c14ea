"""Tests of boxes that are generated around ground truths."""

import pytest
import torch
from scipy.stats import kstest
from torchvision.ops import box_iou

from libradet.balance import generate_boxes

GT_BOXES = torch.tensor([[[10.0, 20.0, 50.0, 45.0], [0.0, 0.0, 300.0, 8.0], [5.0, 5.0, 5.0, 5.0]]])


@pytest.mark.parametrize("min_iou", [0.5, 0.7])
def test_ious_are_uniform_above_the_minimum(min_iou):
    boxes = generate_boxes(GT_BOXES, 2000, min_iou, torch.Generator().manual_seed(0))
    for row in range(2):
        ious = box_iou(GT_BOXES[0, row : row + 1], boxes[0, row * 2000 : (row + 1) * 2000])[0]
        assert min_iou <= float(ious.min())
        assert float(ious.max()) <= 1
        assert kstest(ious.double().numpy(), "uniform", args=(min_iou, 1 - min_iou)).pvalue > 0.01


def test_corners_move_in_every_direction():
    boxes = generate_boxes(GT_BOXES, 2000, 0.5, torch.Generator().manual_seed(1))
    offsets = boxes[0, :2000] - GT_BOXES[0, 0]
    assert ((offsets > 0).double().mean(0) - 0.5).abs().max() < 0.05
    sides = (offsets / torch.tensor([40.0, 25.0, 40.0, 25.0])).abs().mean(0)
    assert sides.max() / sides.min() < 1.15  # relative to the sides of the box, all move equally far


def test_a_box_without_area_stays():
    boxes = generate_boxes(GT_BOXES, 3, 0.5)
    assert boxes.shape == (1, 9, 4)
    assert torch.equal(boxes[0, 6:], GT_BOXES[0, 2:].expand(3, -1))


def test_low_minimum_is_refused():
    with pytest.raises(ValueError, match=r"0\.4"):
        generate_boxes(GT_BOXES, 1, 0.4)
