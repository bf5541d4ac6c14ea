"""Winograd's convolutions in blocks of tiles equal direct ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from libradet.models.ops import tiled_winograd
from libradet.models.ops.tiled_winograd import TiledWinograd, fits_tiled_winograd
from libradet.models.ops.winograd_transforms import make_transforms

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")


@needs_onednn
@pytest.mark.parametrize("size", [(16, 16), (1, 1), (5, 7), (13, 18), (30, 12), (20, 1)])
@pytest.mark.parametrize(("bias", "relu"), [(True, True), (True, False), (False, True)])
def test_output_is_that_of_the_convolution(size, bias, relu, monkeypatch):
    # Blocks of two rows of tiles, so that there are several and the last one may repeat a row.
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
        assert (actual - expected).norm() < 2e-6 * expected.norm()


@needs_onednn
@pytest.mark.parametrize("layout", ["channels first", "columns first", "some channels", "cropped"])
def test_inputs_may_have_any_order_in_memory(layout, monkeypatch):
    monkeypatch.setattr(tiled_winograd, "BLOCK_VALUES", 2 * 32 * 5)
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 48, 3, padding=1).requires_grad_(False)
    x = {
        "channels first": torch.randn(1, 32, 40, 20),
        "columns first": torch.randn(1, 20, 40, 32).permute(0, 3, 2, 1),
        "some channels": torch.randn(1, 40, 20, 64).permute(0, 3, 1, 2)[:, 16:48],
        "cropped": torch.randn(1, 44, 26, 32).permute(0, 3, 1, 2)[:, :, 2:42, 3:23],
    }[layout]
    actual = TiledWinograd(conv.weight, conv.bias, relu=False, size=(40, 20))(x)
    expected = conv.double()(x.double())
    assert (actual - expected).norm() < 2e-6 * expected.norm()


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="needs a processor that computes bfloat16")
def test_errors_in_bfloat16_are_one_percent():
    torch.manual_seed(0)
    conv = nn.Conv2d(128, 128, 3, padding=1, dtype=torch.bfloat16).requires_grad_(False)
    x = torch.randn(1, 128, 13, 18).relu().bfloat16().to(memory_format=torch.channels_last)
    actual = TiledWinograd(conv.weight, conv.bias, relu=True, size=(13, 18))(x)
    expected = F.relu(conv.double()(x.double()))
    assert actual.dtype == torch.bfloat16
    assert (actual - expected).norm() < 0.02 * expected.norm()


def test_transforms_are_exact_and_suit_bfloat16():
    torch.manual_seed(0)
    tile, kernel = torch.randn(6, 6, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    inputs, kernels, outputs = make_transforms()
    actual = outputs @ ((inputs @ tile.flatten()) * (kernels @ kernel.flatten()))
    torch.testing.assert_close(actual.view(4, 4), F.conv2d(tile[None, None], kernel[None, None])[0, 0])
    for matrix in (inputs, outputs):
        torch.testing.assert_close(matrix.bfloat16().double(), matrix, rtol=1.3e-3, atol=0)


def test_only_weights_that_fit_are_used():
    weight = torch.empty(128, 128, 3, 3)
    assert fits_tiled_winograd(weight, 15, 20)
    assert not fits_tiled_winograd(weight, 8, 10)
    assert fits_tiled_winograd(weight.bfloat16(), 15, 20)
    assert not fits_tiled_winograd(weight.double(), 15, 20)
    assert not fits_tiled_winograd(torch.empty(128, 128, 1, 1), 15, 20)
    assert not fits_tiled_winograd(torch.empty(128, 64, 3, 3), 15, 20)
    assert not fits_tiled_winograd(torch.empty(136, 128, 3, 3), 15, 20)
