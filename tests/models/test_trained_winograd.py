"""Winograd's convolutions in training and their gradients equal direct ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from libradet.models.ops import trained_winograd
from libradet.models.ops.fuse_conv_bn import ConvNorm
from libradet.models.ops.trained_winograd import TrainedWinogradConv2d, convolve, gradients, replace_3x3_convs
from tests.helpers.tiny_detectors import tiny_batch, tiny_config, tiny_detector

LAYOUTS = (torch.contiguous_format, torch.channels_last)
SIZES = [(16, 16), (1, 1), (5, 7), (13, 18), (30, 12), (20, 1), (2, 33)]


@pytest.fixture(autouse=True)
def on_any_processor(monkeypatch):
    monkeypatch.setattr(trained_winograd, "IS_FASTER", True)
    monkeypatch.setattr(trained_winograd, "NEEDS_CHANNELS_LAST", False)
    monkeypatch.setattr(trained_winograd, "MIN_CHANNELS", 5)
    monkeypatch.setattr(trained_winograd, "MIN_TILES", 1)


def direct(x, weight, bias, grad):
    """Return output and gradients of the direct convolution in float64."""
    inputs = [None if t is None else t.detach().double().requires_grad_() for t in (x, weight, bias)]
    output = F.conv2d(*inputs, padding=1)
    found = iter(torch.autograd.grad(output, [t for t in inputs if t is not None], grad.double()))
    return output, *(None if t is None else next(found) for t in inputs)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("batch", "tiles"), [(1, 3), (2, 12), (3, 1000), (3, 40)])
def test_output_and_gradients_are_those_of_the_convolution(size, batch, tiles, layout, monkeypatch):
    # Blocks of some rows of tiles, of a whole image, and of several.
    monkeypatch.setattr(trained_winograd, "BLOCK_VALUES", tiles * 6)
    torch.manual_seed(0)
    x = torch.randn(batch, 6, *size).contiguous(memory_format=layout)
    weight, bias = torch.randn(5, 6, 3, 3), torch.randn(5) if batch > 1 else None
    grad = torch.randn(batch, 5, *size).contiguous(memory_format=layout)
    expected = direct(x, weight, bias, grad)
    needs = (True, True, bias is not None)
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-13)):
        inputs = [None if t is None else t.to(dtype) for t in (x, weight, bias)]
        with torch.no_grad():
            found = convolve(*inputs), *gradients(grad.to(dtype), *inputs[:2], needs)
        for actual, exact in zip(found, expected, strict=True):
            assert (actual is None) == (exact is None)
            if exact is not None:
                assert actual.shape == exact.shape
                assert (actual - exact).norm() < tolerance * exact.norm()
        assert found[0].is_contiguous(memory_format=layout)
        assert found[1].is_contiguous(memory_format=layout)
        assert found[2].is_contiguous()


@pytest.mark.parametrize("needs", [(True, False, True), (False, True, False), (False, False, True)])
def test_only_needed_gradients_are_computed(needs):
    conv = TrainedWinogradConv2d(nn.Conv2d(6, 5, 3, padding=1))
    x = torch.randn(2, 6, 7, 9, requires_grad=needs[0])
    conv.weight.requires_grad_(needs[1])
    conv.bias.requires_grad_(needs[2])
    output = conv(x)
    # A gradient whose memory is one number.
    output.sum().backward()
    expected = direct(x, conv.weight, conv.bias, torch.ones_like(output))[1:]
    for tensor, exact, needed in zip((x, conv.weight, conv.bias), expected, needs, strict=True):
        assert (tensor.grad is not None) == needed
        if needed:
            torch.testing.assert_close(tensor.grad.double(), exact, atol=1e-4, rtol=1e-4)


def test_two_runs_are_equal_bit_for_bit():
    torch.manual_seed(0)
    x, weight, grad = torch.randn(2, 32, 21, 34), torch.randn(32, 32, 3, 3), torch.randn(2, 32, 21, 34)
    with torch.no_grad():
        runs = [(convolve(x, weight, None), *gradients(grad, x, weight, (True, True, True))) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_gradients_of_gradients_are_those_of_the_convolution():
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 5, 3, padding=1)
    x = torch.randn(1, 6, 8, 8)
    found = []
    for conv in (plain, TrainedWinogradConv2d(plain)):
        (first,) = torch.autograd.grad(conv(x).square().sum(), conv.weight, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), conv.weight)[0])
    torch.testing.assert_close(*found, atol=1e-2, rtol=1e-4)


def test_a_convolution_with_a_fixed_norm_has_the_same_output_and_gradients(monkeypatch):
    torch.manual_seed(0)
    layer = ConvNorm(nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5))
    nn.init.uniform_(layer.norm.weight, 0.5, 2)
    nn.init.uniform_(layer.norm.running_var, 0.5, 2)
    layer.norm.eval()
    replace_3x3_convs(layer)
    assert isinstance(layer.conv, TrainedWinogradConv2d)
    x = torch.randn(2, 6, 9, 14, requires_grad=True)
    found, used = [], []
    for enabled in (True, False):
        monkeypatch.setattr(trained_winograd, "IS_FASTER", enabled)
        used.append(trained_winograd.uses_winograd(layer.conv, x))
        output = layer(x)
        tensors = [x, layer.conv.weight, layer.norm.weight, layer.norm.bias]
        found.append((output, *torch.autograd.grad(output.square().sum(), tensors)))
    assert used == [True, False]
    assert not torch.equal(found[0][0], found[1][0])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_only_convolutions_that_keep_the_size_are_replaced_and_names_are_kept():
    kept = [
        nn.Conv2d(6, 6, 1),
        nn.Conv2d(6, 6, 3),
        nn.Conv2d(6, 6, 3, 2, 1),
        nn.Conv2d(6, 6, 3, padding=1, groups=2),
        nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(6, 6, 3, padding="same"),
    ]
    module = nn.Sequential(*kept, nn.Sequential(nn.Conv2d(6, 6, 3, padding=1)))
    before = module.state_dict()
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    replace_3x3_convs(module)
    assert torch.equal(torch.rand(1), expected)
    assert list(module)[: len(kept)] == kept
    assert type(module[-1][0]) is TrainedWinogradConv2d
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(after[name].data_ptr() == tensor.data_ptr() for name, tensor in before.items())


def test_other_uses_are_direct(monkeypatch):
    conv = TrainedWinogradConv2d(nn.Conv2d(6, 6, 3, padding=1))
    x = torch.randn(1, 6, 8, 8)
    uses = trained_winograd.uses_winograd
    assert uses(conv, x)
    assert torch.equal(conv.eval()(x), F.conv2d(x, conv.weight, conv.bias, padding=1))
    assert not uses(conv, x)
    conv.train()
    assert not uses(nn.Conv2d(6, 6, 3, padding=1), x)
    assert not uses(conv, x.bfloat16())
    assert not uses(conv, x.to("meta"))
    with FakeTensorMode():
        assert not uses(conv, torch.empty(1, 6, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        assert not uses(conv, x)
    with monkeypatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)  # also in torch.export
        assert not uses(conv, x)
    with monkeypatch.context() as patch:
        patch.setattr(trained_winograd, "NEEDS_CHANNELS_LAST", True)
        assert not uses(conv, x)
        assert uses(conv, x.to(memory_format=torch.channels_last))
    monkeypatch.setattr(trained_winograd, "MIN_TILES", 5)
    assert not uses(conv, x)
    assert uses(conv, torch.randn(2, 6, 8, 8))


@pytest.mark.parametrize("frozen_norm", [True, False])
def test_losses_and_gradients_of_a_detector_are_those_of_direct_convolutions(frozen_norm, monkeypatch):
    config = tiny_config()
    config.backbone.frozen_norm = frozen_norm
    model, batch = tiny_detector(config), tiny_batch()
    replaced = [name for name, m in model.named_modules() if isinstance(m, TrainedWinogradConv2d)]
    assert {name.split(".")[0] for name in replaced} == {"backbone", "pyramid", "rpn"}
    used, found = [], []
    uses = trained_winograd.uses_winograd
    monkeypatch.setattr(trained_winograd, "uses_winograd", lambda *args: used.append(uses(*args)) or used[-1])
    for enabled in (True, False):
        monkeypatch.setattr(trained_winograd, "IS_FASTER", enabled)
        torch.manual_seed(0)
        losses = model(batch)
        trained = [p for p in model.parameters() if p.requires_grad]
        norms = [g.norm() for g in torch.autograd.grad(sum(losses.values()), trained)]
        found.append((torch.stack(list(losses.values())), torch.stack(norms)))
        assert any(used) == enabled
        used.clear()
    (losses, norms), (direct_losses, direct_norms) = found
    torch.testing.assert_close(losses, direct_losses, rtol=1e-5, atol=0)
    torch.testing.assert_close(norms, direct_norms, rtol=1e-4, atol=1e-6)
    monkeypatch.setattr(trained_winograd, "IS_FASTER", True)
    model.eval()
    model(batch)
    assert not any(used)
