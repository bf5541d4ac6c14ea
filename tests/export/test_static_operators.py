"""Both translations of the custom operators to torch, that of fixed sizes and that to torchvision's operators, give
the operators' results."""

import pytest
import torch

from libradet.export import pt2_format, static_operators
from libradet.geometry import roi_align
from tests.helpers.operator_cases import (
    ALIGN_CASES,
    ALIGN_OPTIONS,
    NMS_CASES,
    NMS_OPTIONS,
    align,
    assert_same_nms,
)

translations = pytest.mark.parametrize("operators", [static_operators, pt2_format])


@translations
@pytest.mark.parametrize(("threshold", "size"), NMS_OPTIONS)
@pytest.mark.parametrize("case", NMS_CASES)
def test_batched_nms(case, threshold, size, operators):
    rows, filled = operators.batched_nms(*case, threshold, size)
    assert_same_nms(rows, filled, case, threshold, size)


@translations
@pytest.mark.parametrize("options", ALIGN_OPTIONS)
def test_pyramid_roi_align(options, operators, monkeypatch):
    expected = [align(*case, *options) for case in ALIGN_CASES]
    monkeypatch.setattr(roi_align, "_pyramid_roi_align", operators.pyramid_roi_align)
    for case, pooled in zip(ALIGN_CASES, expected, strict=True):
        torch.testing.assert_close(align(*case, *options), pooled, rtol=1e-5, atol=1e-5)
