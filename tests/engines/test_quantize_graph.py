"""Graphs of INT8 convolutions compute what the operators do, to a few steps, with bytes between the convolutions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from libradet.engines import quantize_graph
from libradet.engines.fuse_graph import fold_constants, fuse_convolutions
from libradet.engines.quantize_graph import measure_ranges, quantize_convolutions
from libradet.errors import UserError
from libradet.models.ops.packed_conv import PackedConv2d
from libradet.models.ops.quantized_layers import QuantizedConv2d, has_int8_layers, max_pool, quantize
from libradet.models.ops.tiled_winograd import TiledWinograd

pytestmark = pytest.mark.skipif(not has_int8_layers(), reason="needs oneDNN")


def traced(function, x):
    with torch.no_grad():
        return make_fx(
            torch.func.functionalize(lambda x: function(x)), tracing_mode="fake", _allow_non_fake_inputs=True
        )(x)


def check(function, shape=(1, 8, 24, 20)):
    """Compares the quantized graph with the function, twice: the first call must not change what the second needs."""
    torch.manual_seed(0)
    x = torch.randn(shape).to(memory_format=torch.channels_last)
    measured = traced(function, x)
    fold_constants(measured)
    outputs, ranges = measure_ranges(measured, x)
    graph = traced(function, x)
    quantize_convolutions(graph, ranges, {})
    fuse_convolutions(graph, {})
    with torch.inference_mode():
        kept = x.clone()
        for _ in range(2):
            for expected, actual, known in zip(function(x), graph(x), outputs, strict=True):
                torch.testing.assert_close(known, expected, rtol=1e-5, atol=1e-5)
                assert actual.dtype == torch.float32
                assert (actual - expected).norm() <= 0.03 * expected.norm()
            assert torch.equal(x, kept)
    return graph


def functions(graph):
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def layers(graph):
    return [graph.get_submodule(node.target) for node in graph.graph.nodes if node.op == "call_module"]


@pytest.fixture
def convs():
    torch.manual_seed(0)
    return nn.ModuleList(nn.Conv2d(8, 8, size, padding=size // 2) for size in (3, 1, 3, 1)).requires_grad_(False)


def test_convolutions_in_sequence_pass_bytes(convs):
    graph = check(lambda x: [convs[2](F.relu(convs[1](F.silu(convs[0](x)))))])
    assert functions(graph) == [quantize]
    assert [layer.output_scale is None for layer in layers(graph)] == [False, False, True]


def test_residual_sums_are_added_as_bytes(convs):
    def blocks(x):
        x = F.relu(convs[0](x))
        x = F.relu(convs[1](F.relu(convs[2](x))) + x)
        return [convs[3](F.relu(convs[2](x).add_(convs[1](x))))]

    graph = check(blocks)
    assert functions(graph) == [quantize]
    assert [layer.other_scale is not None for layer in layers(graph)] == [False, False, True, False, True, False]


def test_the_input_of_a_convolution_is_not_overwritten(convs):
    def block(x):
        x = F.relu(convs[0](x))
        return [convs[1](F.relu(convs[2](x) + x))]

    assert torch.ops.aten.add.Tensor in functions(check(block))


def test_pooling_and_upsampling_copy_bytes(convs):
    def pyramid(x):
        fine = F.max_pool2d(F.relu(convs[0](x)), 3, 2, 1)
        coarse = convs[1](F.max_pool2d(fine, 2))
        merged = convs[3](fine) + F.interpolate(coarse, size=fine.shape[-2:], mode="nearest")
        return [convs[2](merged), convs[2](coarse)]

    graph = check(pyramid)
    assert functions(graph) == [quantize, max_pool, max_pool, torch.ops.aten.upsample_nearest2d.default]


def test_what_other_operators_read_is_float(convs):
    def levels(x):
        first = convs[0](x)
        return [first, F.relu(convs[1](first)), F.max_pool2d(first, 1, 2), convs[2](F.max_pool2d(first, 1, 2))]

    graph = check(levels)
    # The image, the first output, and what is pooled in float32 for the last convolution.
    assert functions(graph).count(quantize) == 3
    assert all(layer.output_scale is None for layer in layers(graph))


def test_sums_that_broadcast_and_other_activations_after_a_sum(convs):
    check(lambda x: [convs[0](x) + convs[1](x).mean((2, 3), keepdim=True)])
    check(lambda x: [convs[2](F.silu(convs[0](x) + F.relu(convs[1](x))))])


def test_depthwise_convolutions_stay_in_float():
    torch.manual_seed(0)
    depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8).requires_grad_(False)
    grouped = nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=2).requires_grad_(False)
    graph = check(lambda x: [grouped(F.relu(depthwise(x)))])
    assert [isinstance(layer, QuantizedConv2d) for layer in layers(graph)] == [False, True]


@pytest.mark.parametrize("vnni", [True, False])
def test_without_vnni_large_convolutions_are_winograds(vnni, monkeypatch):
    monkeypatch.setattr(quantize_graph, "uses_vnni", lambda: vnni)
    monkeypatch.setattr(quantize_graph, "WINOGRAD_CHANNELS", 128)
    monkeypatch.setattr(quantize_graph, "WINOGRAD_PIXELS", 16 * 20)
    torch.manual_seed(0)
    sizes = (8, 128, 1), (128, 128, 3), (128, 15, 1), (128, 64, 1)
    first, large, small, other = (
        nn.Conv2d(inputs, outputs, size, padding=size // 2).requires_grad_(False) for inputs, outputs, size in sizes
    )

    def function(x):
        hidden = F.relu(large(F.relu(first(x))))
        return [small(hidden), other(hidden)]

    graph = check(function, (1, 8, 16, 20))
    kinds = [type(layer) for layer in layers(graph)]
    quantized = QuantizedConv2d
    assert kinds == ([quantized] * 4 if vnni else [quantized, TiledWinograd, PackedConv2d, quantized])


def test_sizes_share_layers_and_other_graphs_are_refused(convs):
    def function(x):
        return [convs[2](F.relu(convs[0](x)))]

    shared, number = {}, []
    _, ranges = measure_ranges(traced(function, torch.zeros(1, 8, 24, 20)), torch.randn(1, 8, 24, 20))
    for shape in ((1, 8, 24, 20), (1, 8, 40, 32)):
        quantize_convolutions(traced(function, torch.zeros(shape)), ranges, shared)
        number.append(len(shared))
    assert number == [2, 2]
    with pytest.raises(UserError, match=r"1 convolutions at one image size and 2 at that of the calibration images"):
        quantize_convolutions(traced(lambda x: [convs[0](x)], torch.zeros(1, 8, 24, 20)), ranges, {})
