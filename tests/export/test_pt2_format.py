"""Exported programs with torchvision's NMS, and thresholds of IoUs in float32 and float64."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim, export

from libradet.export import pt2_format
from libradet.export.pt2_format import float32_iou_threshold, float64_iou_threshold
from tests.helpers.exported_detectors import shape_checks_disabled
from tests.helpers.operator_cases import NMS_CASES, NMS_OPTIONS, assert_same_nms


class OneNMS(nn.Module):
    """The translation of NMS."""

    def forward(self, boxes, scores, groups, valid):
        return pt2_format.batched_nms(boxes, scores, groups, valid, *NMS_OPTIONS[0])


def test_exported_nms_of_no_and_of_one_box():
    batch, number = Dim("batch", min=1), Dim("number", min=1)
    with shape_checks_disabled():
        program = export(OneNMS(), NMS_CASES[1], dynamic_shapes=({0: batch, 1: number},) * 4, strict=False)
    boxes, scores, groups, _ = NMS_CASES[0]
    for count in range(4):
        case = boxes, scores, groups, torch.arange(boxes.shape[1])[None] < count
        assert_same_nms(*program.module()(*case), case, *NMS_OPTIONS[0])


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6, 0.7, 0.9])
def test_iou_thresholds_compare_as_torch_does(threshold):
    """0.6 in float32 is more than 0.6 in float64, 0.7 is less."""
    nearest = np.float32(threshold)
    overlaps = np.array([np.nextafter(nearest, np.float32(0)), nearest, np.nextafter(nearest, np.float32(1))])
    expected = overlaps.astype(np.float64) > threshold
    assert ((overlaps > np.float32(float32_iou_threshold(threshold))) == expected).all()
    # A float64 number next to each of them is rounded to it.
    for side in (-1, 1):
        nearby = overlaps.astype(np.float64) + side * 0.49 * np.spacing(nearest)
        assert ((nearby > float64_iou_threshold(threshold)) == expected).all()
