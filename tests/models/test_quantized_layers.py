"""INT8 layers differ from float layers by the steps of their inputs, weights and outputs, and by nothing else."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from libradet.models.ops import quantized_layers
from libradet.models.ops.quantized_layers import (
    ActivationRange,
    QuantizedConv2d,
    QuantizedLinear,
    has_int8_layers,
    max_pool,
    quantize,
    quantize_layers,
    quantize_weight,
    range_of,
)

pytestmark = pytest.mark.skipif(not has_int8_layers(), reason="needs oneDNN")


def restore(x, scale):
    return (x.float() - scale.zero) * scale.scale


def channels_last(*shape):
    return torch.randn(*shape).to(memory_format=torch.channels_last)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("values", [[-1.0, 3.0], [0.5, 2.0], [-2.0, -1.0], [0.0, 0.0]])
def test_bytes_are_within_half_a_step_and_zero_is_exact(values):
    low, high = values
    scale = ActivationRange(low, high).scale
    x = torch.cat([torch.zeros(1), torch.linspace(low, high, 1000)])
    restored = restore(quantize(x, scale), scale)
    assert restored[0] == 0
    # Rounding of the zero point moves an end by half a step more.
    assert (restored - x).abs().max() <= scale.scale * 1.001


def test_values_out_of_range_become_its_ends():
    scale = ActivationRange(-1, 2).scale
    assert quantize(torch.tensor([-9.0, 9.0]), scale).tolist() == [0, 255]


def test_weights_are_within_half_a_step_of_their_channel(monkeypatch):
    weight = torch.randn(6, 5, 3, 3) * torch.logspace(-3, 1, 6)[:, None, None, None]
    for vnni, limit, largest in ((True, "", 127), (True, "avx2", 63), (False, "", 63)):
        monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda vnni=vnni: vnni)
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        values, scales = quantize_weight(weight)
        assert values.abs().amax((1, 2, 3)).tolist() == [largest] * 6
        error = (values * scales[:, None, None, None] - weight).abs().amax((1, 2, 3))
        assert (error <= scales * 0.5001).all()


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("low", [0.0, -2.0])
def test_a_convolution_is_that_of_the_quantized_values(kernel, stride, low):
    conv = nn.Conv2d(16, 24, kernel, stride, kernel // 2).requires_grad_(False)
    x = channels_last(2, 16, 9, 13).clamp(min=low)
    own = range_of(x).scale
    exact_weight, scales = quantize_weight(conv.weight)
    weight = exact_weight * scales[:, None, None, None]
    exact = F.conv2d(restore(quantize(x, own), own), weight, conv.bias, stride, kernel // 2).relu()
    settings = conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, 1, "relu", x.shape, own
    torch.testing.assert_close(QuantizedConv2d(*settings)(x), exact, rtol=1e-4, atol=1e-4)
    output = range_of(exact).scale
    actual = QuantizedConv2d(*settings, output)(quantize(x, own))
    assert actual.dtype == torch.uint8
    assert (restore(actual, output) - exact).abs().max() <= 0.51 * output.scale


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_sum_is_added_before_the_activation(kernel, activation, as_bytes):
    conv = nn.Conv2d(16, 24, kernel, 1, kernel // 2).requires_grad_(False)
    x, other = channels_last(1, 16, 9, 13), channels_last(1, 24, 9, 13)
    own, added = range_of(x).scale, range_of(other).scale
    settings = conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, 1
    summand = restore(quantize(other, added), added) if as_bytes else other.clone()
    exact = QuantizedConv2d(*settings, "none", x.shape, own)(x) + summand
    exact = exact.relu() if activation == "relu" else exact
    output = range_of(exact).scale if as_bytes else None
    layer = QuantizedConv2d(*settings, activation, x.shape, own, output, added if as_bytes else None)
    actual = layer(x, quantize(other, added) if as_bytes else other)
    if output is None:
        torch.testing.assert_close(actual, exact, rtol=1e-4, atol=1e-4)
    else:
        assert (restore(actual, output) - exact).abs().max() <= 0.51 * output.scale


def test_a_linear_layer_is_that_of_the_quantized_values():
    linear = nn.Linear(40, 24).requires_grad_(False)
    x = torch.randn(7, 40)
    own = range_of(x).scale
    values, scales = quantize_weight(linear.weight)
    exact = F.linear(restore(quantize(x, own), own), values * scales[:, None], linear.bias)
    layer = QuantizedLinear(linear.weight, linear.bias, own)
    torch.testing.assert_close(layer(x), exact, rtol=1e-4, atol=1e-4)
    assert layer(x[:0]).shape == (0, 24)


def test_maxima_of_bytes_are_exact():
    x = torch.randint(0, 256, (1, 16, 40, 50), dtype=torch.uint8).to(memory_format=torch.channels_last)
    assert torch.equal(max_pool(x, [3, 3], [2, 2], [1, 1], [1, 1], False).float(), F.max_pool2d(x.float(), 3, 2, 1))


def test_only_layers_with_a_range_are_replaced():
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 2)))
    quantize_layers(model, {model[0]: ActivationRange(0, 1), model[1][0]: ActivationRange(-1, 1)})
    kinds = [type(model[0]), type(model[1][0]), type(model[1][1])]
    assert kinds == [QuantizedConv2d, QuantizedLinear, nn.Linear]


def test_an_empty_tensor_has_a_range():
    assert range_of(torch.empty(0, 4)) == (0, 0)
    assert ActivationRange(-1, 2).union(ActivationRange(-3, 1)) == (-3, 2)


def test_a_build_of_torch_without_the_operators_is_recognized(monkeypatch):
    monkeypatch.setattr(quantized_layers.torch.backends.mkldnn, "is_available", lambda: False)
    assert not has_int8_layers()
