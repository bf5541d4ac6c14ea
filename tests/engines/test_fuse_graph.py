"""Graphs with fused convolutions compute what the operators do."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from libradet.engines.fuse_graph import fuse_convolutions
from libradet.models.ops.packed_conv import PackedConv2d
from libradet.models.ops.tiled_winograd import TiledWinograd

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")


def fused(function, x, layers=None):
    with torch.no_grad():
        graph = make_fx(torch.func.functionalize(lambda x: function(x)))(x)
    return fuse_convolutions(graph, {} if layers is None else layers)


def targets(graph):
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def check(function, shape=(1, 8, 12, 20), dtype=torch.float32):
    """Compares the graph with the function, twice: the first call must not change what the second one needs."""
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=dtype).to(memory_format=torch.channels_last)
    graph = fused(function, x)
    with torch.inference_mode():
        kept = x.clone()
        for _ in range(2):
            expected, actual = function(x), graph(x)
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
            assert torch.equal(x, kept)
    return graph


@pytest.fixture
def conv():
    torch.manual_seed(0)
    return nn.Conv2d(8, 8, 3, padding=1).requires_grad_(False)


@pytest.mark.parametrize("activation", [F.relu, F.silu, F.hardswish])
def test_activations_are_fused(conv, activation):
    assert not targets(check(lambda x: activation(conv(x))))


@pytest.mark.parametrize("activation", [F.silu, F.hardswish])
def test_after_a_sum_only_relu_is_fused(conv, activation):
    other = nn.Conv2d(8, 8, 1).requires_grad_(False)
    graph = check(lambda x: activation(conv(x) + F.relu(other(x))))
    assert len(targets(graph)) == 1


def test_a_sum_and_its_activation_are_fused(conv):
    other = nn.Conv2d(8, 8, 1, stride=1).requires_grad_(False)
    graph = check(lambda x: F.relu(conv(x).add_(other(x))))
    assert not targets(graph)


def test_what_is_needed_later_is_not_overwritten(conv):
    def block(x):
        before = F.relu(conv(x))
        after = F.relu(conv(before) + before)
        return after + before

    assert targets(check(block)).count("aten.add.Tensor") == 2


def test_inputs_outputs_and_views_are_not_overwritten(conv):
    def add_input(x):
        return conv(x) + x

    def add_output(x):
        y = F.relu(conv(x))
        return y, conv(y) + y

    def add_view(x):
        y = F.relu(conv(x)) * 2
        rows = y.permute(0, 2, 3, 1)
        return conv(x) + y, rows

    for function in (add_input, add_output, add_view):
        assert "aten.add.Tensor" in targets(check(function))


@pytest.mark.parametrize("groups", [1, 8])
def test_the_input_of_a_convolution_is_not_overwritten(conv, groups):
    own = nn.Conv2d(8, 8, 3, padding=1, groups=groups).requires_grad_(False)

    def add_own_input(x):
        y = F.relu(conv(x))
        return F.relu(own(y) + y)

    assert "aten.add.Tensor" in targets(check(add_own_input))


@pytest.mark.parametrize(
    "view",
    [
        lambda y: y.transpose(2, 3),
        lambda y: y.squeeze(0),
        lambda y: y.flatten(2),
        lambda y: y.unbind(1)[0],
        lambda y: y.split(4, 1)[1],
        lambda y: y[:, 2],
        lambda y: y.as_strided((8, 12), (1, 8)),
        lambda y: y.detach(),
        lambda y: y.unfold(3, 3, 1),
        lambda y: y.diagonal(0, 2, 3),
        lambda y: y.expand(2, 8, 12, 20),
    ],
)
def test_what_a_view_shows_is_not_overwritten(conv, view):
    def read_view_after_sum(x):
        y = F.relu(x) * 2
        shown = view(y)
        return conv(x) + y, shown * 3

    assert "aten.add.Tensor" in targets(check(read_view_after_sum))


def test_items_of_views_are_not_overwritten(conv):
    def add_half(x):
        both = torch.cat([F.relu(x), x], 1)
        first, _ = both.split(8, 1)
        return conv(x) + first, both * 2

    def add_row(x):
        both = torch.stack([F.relu(x), x])
        return conv(x) + both[0], both * 2

    for function in (add_half, add_row):
        assert "aten.add.Tensor" in targets(check(function))


def test_items_of_copies_are_overwritten(conv):
    graph = check(lambda x: conv(x) + F.max_pool2d(F.relu(x), 3, 1, 1))
    assert "aten.add.Tensor" not in targets(graph)


def test_convolutions_of_one_weight_keep_their_biases(conv):
    other = torch.randn(8)

    def function(x):
        return [F.conv2d(x, conv.weight, bias, padding=1) for bias in (conv.bias, other, None)]

    assert not targets(check(function))


def test_sums_that_broadcast_or_scale_are_kept(conv):
    assert "aten.add.Tensor" in targets(check(lambda x: conv(x) + F.relu(conv(x)).mean((2, 3), keepdim=True)))
    assert "aten.add.Tensor" in targets(check(lambda x: torch.add(F.relu(x), conv(x), alpha=2)))


def test_constants_are_computed_once(conv):
    halves = conv.weight.split(4)
    graph = check(lambda x: F.conv2d(x, torch.cat(halves[::-1]) * 2, padding=1))
    assert not targets(graph)


def test_grouped_strided_and_transposed_convolutions(conv):
    grouped = nn.Conv2d(8, 8, 3, padding=2, stride=2, dilation=2, groups=8).requires_grad_(False)
    transposed = nn.ConvTranspose2d(8, 8, 2, stride=2).requires_grad_(False)
    assert targets(check(lambda x: transposed(F.relu(grouped(x))))) == ["aten.convolution.default"]


def test_winograd_is_used_where_it_fits_and_sizes_share_layers():
    torch.manual_seed(0)
    conv = nn.Conv2d(128, 128, 3, padding=1).requires_grad_(False)
    layers = {}
    for shape in ((1, 128, 16, 32), (1, 128, 20, 32), (1, 128, 4, 4)):
        x = torch.randn(shape).to(memory_format=torch.channels_last)
        graph = fused(lambda x: F.relu(conv(x)), x, layers)
        torch.testing.assert_close(graph(x), F.relu(conv(x)), rtol=1e-4, atol=1e-4)
        assert not targets(graph)
    kinds = [type(layer) for layer in layers.values()]
    assert kinds.count(TiledWinograd) == kinds.count(PackedConv2d) == 1


def random_block(rng, convs):
    """Return a function of random operations on maps of equal size, each on one or two of the maps before."""
    steps = [
        lambda x, y: convs[0](x),
        lambda x, y: convs[1](x),
        lambda x, y: convs[2](x) + y,
        lambda x, y: y + convs[0](x),
        lambda x, y: convs[1](x).add_(y),
        lambda x, y: F.relu(x),
        lambda x, y: F.silu(x),
        lambda x, y: F.relu(convs[2](x) + y),
        lambda x, y: F.max_pool2d(x, 3, 1, 1),
        lambda x, y: torch.cat([x, y], 1).chunk(2, 1)[1],
        lambda x, y: x.transpose(2, 3).flip(2).transpose(2, 3),
        lambda x, y: torch.stack([x, y])[0],
    ]
    chosen = [(steps[rng.integers(len(steps))], *rng.random(2)) for _ in range(12)]

    def block(x):
        maps = [x]
        for step, first, second in chosen:
            # Mostly recent maps, so that many have one user.
            rows = [len(maps) - 1 - int(len(maps) * share**2) for share in (first, second)]
            maps.append(step(*(maps[row] for row in rows)))
        return maps[-1], maps[-3]

    return block


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_random_graphs_compute_what_the_operators_do(seed):
    torch.manual_seed(seed)
    kinds = {"padding": 1}, {"padding": 1, "groups": 8}, {"kernel_size": 1}
    convs = [nn.Conv2d(8, 8, **{"kernel_size": 3} | kind).requires_grad_(False) for kind in kinds]
    check(random_block(np.random.default_rng(seed), convs), (1, 8, 6, 10))
