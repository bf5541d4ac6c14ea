"""Inputs for the package's custom operators, on which their translations are compared with them."""

import torch

from libradet.geometry.nms import batched_nms
from libradet.geometry.roi_align import pyramid_roi_align

STRIDES = [4, 8]
NMS_OPTIONS = [(0.5, 20), (0.6, 8), (0.7, 200)]
"""IoU threshold and output size."""
ALIGN_OPTIONS = [(True, 2), (True, 0), (False, 2), (False, 0)]
"""``aligned`` and ``sampling_ratio``."""


def candidates(num_images, num_boxes, num_groups=3, seed=0, integers=False, valid_share=0.8):
    """Return overlapping boxes, scores, groups and validity.

    With ``integers``, many scores are equal, and many IoUs are equal to each other and to thresholds.
    """
    rng = torch.Generator().manual_seed(seed)
    corner, side = (torch.rand(num_images, num_boxes, 2, generator=rng) for _ in range(2))
    boxes = torch.cat([corner * 30, corner * 30 + side * 20 + 1], 2)
    scores = torch.randn(num_images, num_boxes, generator=rng)
    if integers:
        boxes, scores = (boxes / 5).round() * 5, (scores * 2).round() / 2
    valid = torch.rand(num_images, num_boxes, generator=rng) < valid_share
    return boxes, scores, torch.randint(0, num_groups, (num_images, num_boxes), generator=rng), valid


NMS_CASES = [
    candidates(1, 60),
    candidates(3, 50, seed=1),
    candidates(2, 70, seed=2, integers=True),
    candidates(2, 70, num_groups=1, seed=3, integers=True),
    candidates(2, 5, seed=4),
    candidates(3, 40, seed=5, valid_share=0.05),
    candidates(2, 30, seed=6, valid_share=0.0),
]


def assert_same_nms(rows, filled, case, threshold, size):
    """Compare the output of a translation with that of the operator."""
    expected_rows, expected = batched_nms(*case, threshold=threshold, size=size)
    assert torch.equal(filled, expected)
    assert torch.equal(rows * filled, expected_rows * expected)


def regions(num_images=2, num_boxes=20, seed=0, valid_share=0.8):
    """Return features of two levels, boxes (some of them outside or without area) and validity."""
    rng = torch.Generator().manual_seed(seed)
    fine, coarse = (torch.randn(num_images, 3, 64 // s, 96 // s, generator=rng) for s in STRIDES)
    corner = torch.rand(num_images, num_boxes, 2, generator=rng) * 70 - 8
    boxes = torch.cat([corner, corner + torch.rand(num_images, num_boxes, 2, generator=rng) * 50], 2)
    boxes[:, 0, 2:] = boxes[:, 0, :2]  # without area
    return fine, coarse, boxes, torch.rand(num_images, num_boxes, generator=rng) < valid_share


ALIGN_CASES = [regions(), regions(3, 7, 1), regions(1, 1, 2, valid_share=1.1), regions(2, 9, 3, valid_share=0.0)]


def align(fine, coarse, boxes, valid, aligned, sampling_ratio):
    """Run RoIAlign on two levels."""
    options = {"size": 5, "canonical_size": 16.0, "canonical_level": 3}
    levels = [fine, coarse]
    return pyramid_roi_align(levels, boxes, valid, STRIDES, aligned=aligned, sampling_ratio=sampling_ratio, **options)
