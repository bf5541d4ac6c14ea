import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from libradet.balance import BalancedFeaturePyramid
from libradet.balance.pyramid import NonLocal2d, rescale


def make_pyramid(levels=5, channels=3, height=4, width=6, seed=0):
    """Levels of a padded image: each side twice that of the next."""
    g = torch.Generator().manual_seed(seed)
    sides = [2**i for i in range(levels - 1, -1, -1)]
    return [torch.randn(2, channels, height * s, width * s, generator=g) for s in sides]


def rescale_by_hand(x, height, width):
    """Reference of rescale: repeat each cell, or the maximum of each block."""
    h, w = x.shape[-2:]
    if h < height:
        return x[..., np.arange(height) * h // height, :][..., np.arange(width) * w // width]
    if h == height:
        return x
    blocks = x.reshape(*x.shape[:-2], height, h // height, width, w // width)
    return blocks.max(axis=(-3, -1))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.data())
def test_the_rescaled_average_is_added_to_each_level(levels, data):
    level = data.draw(st.integers(0, levels - 1))
    pyramid = make_pyramid(levels, height=data.draw(st.integers(1, 3)), width=data.draw(st.integers(1, 3)))
    arrays = [x.double().numpy() for x in pyramid]
    size = arrays[level].shape[-2:]
    average = sum(rescale_by_hand(x, *size) for x in arrays) / levels
    out = BalancedFeaturePyramid(3, level, "none")([x.double() for x in pyramid])
    assert len(out) == levels
    for x, y in zip(arrays, out, strict=True):
        np.testing.assert_allclose(y.numpy() - x, rescale_by_hand(average, *x.shape[-2:]), atol=1e-12)


def test_sizes_that_are_no_multiples_are_pooled_adaptively_and_keep_their_shapes():
    pyramid = [torch.randn(1, 2, *size) for size in [(25, 33), (13, 17), (7, 9), (4, 5), (2, 3)]]
    out = BalancedFeaturePyramid(2, 2, "none")(pyramid)
    scaled = [
        F.adaptive_max_pool2d(pyramid[0], (7, 9)),
        F.adaptive_max_pool2d(pyramid[1], (7, 9)),
        pyramid[2],
        F.interpolate(pyramid[3], size=(7, 9), mode="nearest"),
        F.interpolate(pyramid[4], size=(7, 9), mode="nearest"),
    ]
    average = sum(scaled) / 5
    expected = [
        F.interpolate(average, size=(25, 33), mode="nearest"),
        F.interpolate(average, size=(13, 17), mode="nearest"),
        average,
        F.adaptive_max_pool2d(average, (4, 5)),
        F.adaptive_max_pool2d(average, (2, 3)),
    ]
    for x, y, e in zip(pyramid, out, expected, strict=True):
        torch.testing.assert_close(y - x, e, atol=1e-5, rtol=1e-5)


def test_fixed_and_adaptive_pooling_agree_on_multiples():
    x = torch.randn(2, 3, 12, 30)
    torch.testing.assert_close(rescale(x, 4, 5), F.adaptive_max_pool2d(x, (4, 5)))


def test_new_non_local_block_is_the_identity():
    torch.manual_seed(0)
    block, x = NonLocal2d(8), torch.randn(2, 8, 5, 7)
    assert torch.equal(block(x), x)
    refined, plain = (BalancedFeaturePyramid(8, 1, kind)(make_pyramid(3, 8)) for kind in ("non_local", "none"))
    for a, b in zip(refined, plain, strict=True):
        assert torch.equal(a, b)


def test_new_non_local_block_receives_gradients():
    block, x = NonLocal2d(8), torch.randn(2, 8, 5, 7)
    block(x).square().sum().backward()
    assert block.out.weight.grad.abs().max() > 0


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_non_local_block_matches_its_formula(memory_format):
    """y = x + W softmax(θᵀφ) g, without a scale (Wang et al., equation 6), values and gradients."""
    torch.manual_seed(1)
    block = NonLocal2d(6).double()
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.5)
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()

    def linear(conv, cells):
        return cells @ conv.weight[:, :, 0, 0].T + conv.bias

    rows = []
    for b in range(2):
        cells = torch.stack([x[b, :, i, j] for i in range(4) for j in range(5)])
        score = (linear(block.theta, cells) @ linear(block.phi, cells).T).exp()
        attended = (score / score.sum(1, keepdim=True)) @ linear(block.g, cells)
        rows.append((cells + linear(block.out, attended)).T.reshape(6, 4, 5))
    expected, weight = torch.stack(rows), torch.randn(2, 6, 4, 5, dtype=torch.float64)
    out = block(x)
    torch.testing.assert_close(out, expected)
    inputs = [x, *block.parameters()]
    ours, theirs = (torch.autograd.grad((y * weight).sum(), inputs) for y in (out, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_convolution_refines_the_average():
    torch.manual_seed(2)
    balance, pyramid = BalancedFeaturePyramid(3, 1, "conv"), make_pyramid(3)
    plain = BalancedFeaturePyramid(3, 1, "none")(pyramid)
    average = plain[1] - pyramid[1]
    refined = F.conv2d(F.pad(average, (1, 1, 1, 1)), balance.refine.weight, balance.refine.bias)
    out = balance(pyramid)
    torch.testing.assert_close(out[1] - pyramid[1], refined, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out[2] - pyramid[2], F.max_pool2d(refined, 2), atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_level_and_parameter():
    balance = BalancedFeaturePyramid(4, 2)
    torch.nn.init.normal_(balance.refine.out.weight)
    pyramid = [x.requires_grad_() for x in make_pyramid(5, 4)]
    sum(x.square().sum() for x in balance(pyramid)).backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in (*pyramid, *balance.parameters()))


def test_missing_level_raises():
    with pytest.raises(IndexError):
        BalancedFeaturePyramid(3, 4, "none")(make_pyramid(3))


@pytest.mark.parametrize("refine", ["none", "conv", "non_local"])
def test_new_gated_pyramid_is_the_identity_and_its_gates_receive_gradients(refine):
    pyramid = make_pyramid()
    block = BalancedFeaturePyramid(3, 2, refine, num_gates=5)
    out = block(pyramid)
    assert all(torch.equal(x, y) for x, y in zip(pyramid, out, strict=True))
    sum((y * x.cos()).sum() for x, y in zip(pyramid, out, strict=True)).backward()
    average = torch.stack([rescale(x, *pyramid[2].shape[-2:]) for x in pyramid]).mean(0)
    added = block.refine(average)
    expected = [(rescale(added, *x.shape[-2:]) * x.cos()).sum() for x in pyramid]
    torch.testing.assert_close(block.gate.grad, torch.stack(expected))


def test_gates_weigh_the_average_of_each_level():
    pyramid = make_pyramid()
    plain, gated = BalancedFeaturePyramid(3), BalancedFeaturePyramid(3, num_gates=5)
    gated.load_state_dict(plain.state_dict() | {"gate": torch.tensor([1.0, -0.5, 0.0, 2.0, 1.0])})
    for x, y, z, g in zip(pyramid, plain(pyramid), gated(pyramid), gated.gate.tolist(), strict=True):
        torch.testing.assert_close(z - x, g * (y - x))


def test_gates_keep_the_type_of_the_features():
    pyramid = [x.bfloat16() for x in make_pyramid()]
    with torch.autocast("cpu", torch.bfloat16):
        assert all(y.dtype == torch.bfloat16 for y in BalancedFeaturePyramid(3, num_gates=5)(pyramid))
