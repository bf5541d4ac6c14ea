"""Winograd's convolutions equal direct ones."""

import pytest
import torch
from torch import nn

from libradet.models.ops.winograd import (
    INPUT_SUMS,
    OUTPUT_SUMS,
    TRANSFORMS,
    WinogradConv2d,
    fits_winograd,
    use_winograd,
)


def test_sums_are_those_of_lavin_and_gray():
    """Section 4.1 of "Fast Algorithms for Convolutional Neural Networks"."""
    assert INPUT_SUMS[:3] == [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
    assert INPUT_SUMS[3:] == [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
    assert OUTPUT_SUMS == [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
    sixths = [[1.5, 0, 0], [-1, -1, -1], [-1, 1, -1], [0.25, 0.5, 1], [0.25, -0.5, 1], [0, 0, 6]]
    assert torch.allclose(6 * TRANSFORMS.kernels, torch.tensor(sixths).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 12), (1, 1), (5, 7), (3, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_output_is_that_of_the_convolution(size, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=bias).double().requires_grad_(False)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(WinogradConv2d(conv)(x), conv(x), rtol=0, atol=1e-12)


def test_float32_errors_are_small():
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 64, 3, padding=1).requires_grad_(False)
    x = torch.randn(1, 64, 20, 24).to(memory_format=torch.channels_last)
    expected = conv.double()(x.double())
    actual = WinogradConv2d(conv.float())(x)
    assert (actual - expected).norm() < 3e-6 * expected.norm()
    assert actual.is_contiguous(memory_format=torch.channels_last)


def test_only_convolutions_that_fit_are_replaced():
    fitting = nn.Conv2d(64, 64, 3, padding=1)
    others = [
        nn.Conv2d(64, 64, 3, padding=1, stride=2),
        nn.Conv2d(64, 64, 3, padding=2, dilation=2),
        nn.Conv2d(64, 64, 3, padding=1, groups=64),
        nn.Conv2d(64, 64, 1),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
    ]
    assert fits_winograd(fitting)
    assert not any(map(fits_winograd, others))
    model = nn.Sequential(fitting, nn.Sequential(*others))
    use_winograd(model)
    assert isinstance(model[0], WinogradConv2d)
    assert list(model[1]) == others
