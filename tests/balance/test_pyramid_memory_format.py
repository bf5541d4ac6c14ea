"""The balanced pyramid keeps the memory format of its levels, and its values do not depend on it."""

import pytest
import torch

from libradet.balance.pyramid import BalancedFeaturePyramid

SIZES = [(16, 20), (8, 10), (4, 5), (2, 3)]


@pytest.mark.parametrize("refine", ["none", "conv", "non_local"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_refinement_gets_the_average_in_the_format_of_the_levels(refine, memory_format):
    torch.manual_seed(0)
    pyramid = BalancedFeaturePyramid(8, level=1, refine=refine).to(memory_format=memory_format)
    levels = [torch.randn(2, 8, *size).to(memory_format=memory_format) for size in SIZES]
    received = []
    pyramid.refine.register_forward_pre_hook(lambda module, args: received.append(args[0]))
    outputs = pyramid(levels)
    assert received[0].is_contiguous(memory_format=memory_format)
    assert all(x.is_contiguous(memory_format=memory_format) for x in outputs)
    expected = pyramid.to(memory_format=torch.contiguous_format)([x.contiguous() for x in levels])
    for actual, value in zip(outputs, expected, strict=True):
        torch.testing.assert_close(actual.contiguous(), value, rtol=1e-5, atol=1e-6)
