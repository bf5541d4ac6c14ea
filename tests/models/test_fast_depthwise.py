"""Gradients of depthwise convolutions, compared with torch's in float64."""

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from libradet.models.backbone import Backbone
from libradet.models.config import BackboneConfig
from libradet.models.ops.fast_depthwise import DepthwiseConv2d, conv_gradients, depthwise, replace_depthwise_convs

sizes = st.integers(1, 13)
kernels = st.integers(1, 7)


def gradients(function, x, weight, bias, dtype):
    """Return the gradients of a sum that weights every output differently."""
    inputs = [t.to(dtype).requires_grad_() for t in (x, weight, bias)]
    out = function(*inputs)
    weights = torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out).to(dtype)
    return torch.autograd.grad(out, inputs, weights)


@given(sizes, sizes, kernels, kernels, st.integers(1, 3), st.integers(0, 3), st.integers(2, 5))
def test_gradients_match_torch(height, width, high, wide, stride, padding, channels):
    if height + 2 * padding < high or width + 2 * padding < wide:
        return
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=generator)
        for shape in ((2, channels, height, width), (channels, 1, high, wide), (channels,))
    )
    arguments = ((stride, stride), (padding, padding), (1, 1), channels)
    expected = gradients(lambda *t: F.conv2d(*t, *arguments), x, weight, bias, torch.float64)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.02)):
        found = gradients(lambda *t: depthwise(*t, arguments), x, weight, bias, dtype)
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == dtype
            scale = b.abs().max().clamp(min=1.0)
            assert (a.double() - b).abs().max() <= tolerance * scale


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_gradients_of_other_convolutions_match_torch(groups):
    x, weight = torch.randn(2, 4, 7, 6), torch.randn(8, 4 // groups, 3, 3)
    grad = torch.randn(2, 8, 4, 3)
    found = conv_gradients(grad, x, weight, ((2, 2), (1, 1), (1, 1), groups), (True, True, True))
    inputs = [t.double().requires_grad_() for t in (x, weight, torch.zeros(8))]
    exact = torch.autograd.grad(F.conv2d(*inputs, 2, 1, 1, groups), inputs, grad.double())
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kernel", "stride", "side"), [(3, 2, 8), (5, 2, 9), (5, 1, 6), (3, 2, 7)])
def test_same_padding_matches_timm(kernel, stride, side):
    conv = Conv2dSame(6, 6, kernel, stride=stride, groups=6, bias=False)
    x = torch.randn(1, 6, side, side + 1)
    torch.testing.assert_close(DepthwiseConv2d(conv, same=True)(x), conv(x))


def test_only_depthwise_convolutions_are_replaced_and_names_are_kept():
    body = timm.create_model("tf_efficientnet_lite0", features_only=True)
    before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    x = torch.randn(1, 3, 64, 64)
    body.eval()
    expected = body(x)
    replace_depthwise_convs(body)
    replaced = [m for m in body.modules() if isinstance(m, DepthwiseConv2d)]
    grouped = [m for m in body.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert replaced == grouped
    assert len(replaced) > 10
    assert all(torch.equal(tensor, before[name]) for name, tensor in body.state_dict().items())
    for a, b in zip(body(x), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_gradients_of_a_backbone_under_autocast_match_float32():
    backbone = Backbone(BackboneConfig("tf_efficientnet_lite0")).eval()
    x = torch.randn(1, 3, 64, 96)
    norms = []
    for lower in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            total = torch.stack([f.float().square().mean() for f in backbone(x)]).sum()
        backbone.zero_grad()
        total.backward()
        assert all(p.grad is None or p.grad.dtype == torch.float32 for p in backbone.parameters())
        norms.append(torch.stack([p.grad.norm() for p in backbone.parameters() if p.grad is not None]))
    assert ((norms[0] - norms[1]).norm() / norms[0].norm()).item() < 0.1
