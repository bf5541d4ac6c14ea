"""Winograd's convolutions in blocks of tiles equal direct ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from libradet.models.ops import tiled_winograd
from libradet.models.ops.tiled_winograd import TiledWinograd, fits_tiled_winograd

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")


@needs_onednn
@pytest.mark.parametrize("size", [(16, 16), (1, 1), (5, 7), (13, 18), (30, 12)])
@pytest.mark.parametrize(("bias", "relu"), [(True, True), (True, False), (False, True)])
def test_output_is_that_of_the_convolution(size, bias, relu, monkeypatch):
    # Blocks of two rows of tiles, so that there are several and the last one is smaller.
    monkeypatch.setattr(tiled_winograd, "BLOCK_VALUES", 2 * 32 * -(-size[1] // 4))
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 48, 3, padding=1, bias=bias).requires_grad_(False)
    x = torch.randn(1, 32, *size).to(memory_format=torch.channels_last)
    # Weights packed for another size.
    layer = TiledWinograd(conv.weight, conv.bias, relu, (24, 40))
    for _ in range(2):
        actual = layer(x)
        expected = conv.double()(x.double())
        expected = F.relu(expected) if relu else expected
        assert actual.shape == expected.shape
        assert actual.is_contiguous(memory_format=torch.channels_last)
        assert (actual - expected).norm() < 3e-6 * expected.norm()


def test_only_weights_that_fit_are_used():
    weight = torch.empty(128, 128, 3, 3)
    assert fits_tiled_winograd(weight, 15, 20)
    assert not fits_tiled_winograd(weight, 8, 10)
    assert not fits_tiled_winograd(weight.bfloat16(), 15, 20)
    assert not fits_tiled_winograd(torch.empty(128, 128, 1, 1), 15, 20)
    assert not fits_tiled_winograd(torch.empty(128, 64, 3, 3), 15, 20)
    assert not fits_tiled_winograd(torch.empty(136, 128, 3, 3), 15, 20)
