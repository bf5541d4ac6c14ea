"""INT8 convolutions in a graph of torch's operators with fixed sizes: calibration, and the quantized graph."""

import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.fx import GraphModule, Node

from libradet.engines.fuse_graph import (
    ACTIVATIONS,
    Convolution,
    Fused,
    fold_constants,
    follow,
    has_constant_weight,
    read_convolution,
    replace_fused,
    sole_user,
)
from libradet.errors import UserError
from libradet.models.ops.packed_conv import weight_order
from libradet.models.ops.quantized_layers import (
    ActivationRange,
    QuantizedConv2d,
    Scale,
    max_pool,
    quantize,
    range_of,
    uses_vnni,
)

aten = torch.ops.aten

POOLING = aten.max_pool2d_with_indices.default

WINOGRAD_CHANNELS, WINOGRAD_PIXELS = 256, 4000
"""Without VNNI, convolutions with at least as many are faster by Winograd's filtering in float32 than in INT8."""

MIN_OUTPUTS = 64
"""After such a convolution, one with fewer outputs saves less than the conversion of its inputs to bytes costs."""


class ConvolutionRanges(NamedTuple):
    """Ranges of what a convolution reads.

    Attributes:
        input: of its input.
        other: of the summand that is added to its output; None without a sum.
    """

    input: ActivationRange
    other: ActivationRange | None

    def union(self, ranges: "ConvolutionRanges") -> "ConvolutionRanges":
        """Return the ranges that contain both."""
        assert (self.other is None) == (ranges.other is None)
        other = None if self.other is None or ranges.other is None else self.other.union(ranges.other)
        return ConvolutionRanges(self.input.union(ranges.input), other)


def measure_ranges(module: GraphModule, image: Tensor) -> tuple[list[Tensor], list[ConvolutionRanges]]:
    """Run a graph; return its outputs and the ranges of what each convolution of constant weights reads, in order."""
    convolutions = list(_convolutions(module))
    others = [_summand(conv) for conv in convolutions]
    recorder = _Recorder(module, {conv.args[0] for conv in convolutions} | set(others))
    outputs = recorder.run(image)
    ranges: dict[Any, ActivationRange] = recorder.ranges
    return outputs, [
        ConvolutionRanges(ranges[conv.args[0]], None if other is None else ranges[other])
        for conv, other in zip(convolutions, others, strict=True)
    ]


def quantize_convolutions(module: GraphModule, ranges: list[ConvolutionRanges], layers: dict) -> None:
    """Replace, in place, convolutions of constant weights by INT8 ones, with the sum and activation after them.

    A value that only such convolutions read is written as bytes; other values stay in float32. Depthwise convolutions
    and those of a single pixel, which cost little, stay, too. So do, without VNNI instructions, 3 x 3 convolutions that
    are faster by Winograd's filtering, and small ones after them.

    Args:
        module: graph of operators without side effects.
        ranges: of the same detector, by :func:`measure_ranges`.
        layers: quantized layers of other graphs of the same detector, to which those of this graph are added.

    Raises:
        UserError: the graph has other convolutions than the ranges were measured on.
    """
    fold_constants(module)
    convolutions = list(_convolutions(module))
    if len(convolutions) != len(ranges):
        raise UserError(
            f"this detector has {len(convolutions)} convolutions at one image size and {len(ranges)} at that of the "
            "calibration images, so that INT8 is not possible: use fp32 or bf16"
        )
    steps = list(_Plan(module, convolutions, ranges).steps())
    quantized: dict[Node, Node] = {}
    for step in steps:
        if isinstance(step, Node):
            _replace_pooling(module, step)
        else:
            _replace(module, step, layers, quantized)
    module.graph.eliminate_dead_code()


class _Recorder(fx.Interpreter):
    """Run of a graph that measures the ranges of some values."""

    def __init__(self, module: GraphModule, wanted: set) -> None:
        super().__init__(module)
        self.wanted = wanted
        self.ranges: dict[Node, ActivationRange] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n in self.wanted:
            self.ranges[n] = range_of(value)
        return value


class _Step(NamedTuple):
    """A convolution that is computed in INT8.

    Attributes:
        index: of the convolution in the graph.
        input, output, other: scales; None where a value is float32.
        input_bytes, other_bytes: whether the value that the graph has there is bytes.
    """

    conv: Node
    index: int
    fused: Fused
    input: Scale
    output: Scale | None
    other: Scale | None
    input_bytes: bool
    other_bytes: bool


class _Plan:
    """The parts computed in INT8, the values that are bytes, and their scales."""

    def __init__(self, module: GraphModule, convolutions: list[Node], ranges: list[ConvolutionRanges]) -> None:
        self._nodes = list(module.graph.nodes)
        self._indices = {conv: index for index, conv in enumerate(convolutions)}
        self._groups: dict[Node, Fused] = {}
        self._sums: dict[Node, Fused] = {}
        for conv in _select(module, convolutions):
            self._groups[conv] = self._follow(conv)
        self._last_nodes = {fused.last for fused in self._groups.values()}
        self._bytes: set[Node] = set()
        for node in reversed(self._nodes):
            if self._can_write(node) and all(self._reads_bytes(user, node) for user in node.users):
                self._bytes.add(node)
        for node in self._nodes:
            if node not in self._last_nodes and _copied(node) not in self._bytes:
                self._bytes.discard(node)
        self._ranges: dict[Node, ActivationRange] = {}
        for conv, fused in self._groups.items():
            own, other = ranges[self._indices[conv]]
            self._widen(conv.args[0], own)
            if fused.other is not None and other is not None:
                self._widen(fused.other, other)

    def steps(self) -> Iterator["_Step | Node"]:
        """Yield convolutions in INT8, and max pooling of bytes, in the graph's order."""
        for node in self._nodes:
            if node in self._groups:
                yield self._step(node)
            elif node in self._bytes and node.target is operator.getitem:
                yield node

    def _step(self, conv: Node) -> _Step:
        fused, source = self._groups[conv], conv.args[0]
        output = self._scale(fused.last) if fused.last in self._bytes else None
        other = self._scale(fused.other) if output and fused.other is not None else None
        input_bytes, other_bytes = source in self._bytes, fused.other in self._bytes
        return _Step(conv, self._indices[conv], fused, self._scale(source), output, other, input_bytes, other_bytes)

    def _follow(self, conv: Node) -> Fused:
        """Return what is computed with a convolution; a sum of two convolutions belongs to the first one."""
        activations = tuple(ACTIVATIONS)
        fused = follow(conv, True, activations)
        if fused.other is None:
            return fused
        (added,) = conv.users
        if added in self._sums:
            return follow(conv, False, activations)
        self._sums[added] = fused
        return fused

    def _reads_bytes(self, user: Node, node: Node) -> bool:
        if user in self._groups:
            return user.args[0] is node
        if fused := self._sums.get(user):
            # The output is written where this summand is.
            return fused.other is node and fused.last in self._bytes
        return user in self._bytes and _copied(user) is node

    def _can_write(self, node: Node) -> bool:
        return bool(node.users) and (node in self._last_nodes or _copied(node) is not None)

    def _scale(self, node: Any) -> Scale:
        return self._ranges[self._source(node)].scale

    def _source(self, node: Any) -> Node:
        """Return the value that this one is a copy of, and so has the scale of."""
        while node in self._bytes and (copied := _copied(node)) in self._bytes:
            node = copied
        return node

    def _widen(self, node: Any, own: ActivationRange) -> None:
        source = self._source(node)
        self._ranges[source] = own.union(self._ranges.get(source, own))


def _convolutions(module: GraphModule) -> Iterator[Node]:
    return (n for n in module.graph.nodes if n.target is aten.convolution.default and has_constant_weight(n))


def _summand(conv: Node) -> Node | None:
    """Return what is added to a convolution's output, if it is a map of equal shape."""
    added = sole_user(conv, (aten.add.Tensor,))
    other = next((n for n in added.all_input_nodes if n is not conv), None) if added else None
    return other if other is not None and other.meta["val"].shape == conv.meta["val"].shape else None


def _select(module: GraphModule, convolutions: Sequence[Node]) -> list[Node]:
    """Return the convolutions that INT8 makes faster."""
    settings = {conv: read_convolution(module, conv) for conv in convolutions}
    winograd = {conv for conv in convolutions if _is_faster_by_winograd(settings[conv])}
    in_float32 = {follow(conv, False, (aten.relu.default,)).last for conv in winograd}
    small = {conv for conv in convolutions if conv.args[0] in in_float32 and len(settings[conv].weight) < MIN_OUTPUTS}
    return [conv for conv in convolutions if conv not in winograd | small and _is_worthwhile(settings[conv])]


def _is_faster_by_winograd(convolution: Convolution) -> bool:
    height, width = convolution.input_shape[2:]
    is_large = min(convolution.weight.shape[:2]) >= WINOGRAD_CHANNELS and height * width >= WINOGRAD_PIXELS
    return is_large and convolution.fits_winograd and not uses_vnni()


def _is_worthwhile(convolution: Convolution) -> bool:
    channels, (height, width) = convolution.input_shape[1], convolution.input_shape[2:]
    depthwise = convolution.groups == channels > 1
    return not depthwise and height * width > 1 and convolution.weight.dtype == torch.float32


def _copied(node: Node) -> Node | None:
    """Return the input of an operator that only copies values: nearest upsampling and max pooling."""
    source: Any = node.args[0] if node.args else None
    if node.target in (aten.upsample_nearest2d.default, POOLING):
        return source
    is_pooled = node.target is operator.getitem and source.target is POOLING and node.args[1] == 0
    return source if is_pooled else None


def _replace(module: GraphModule, step: _Step, layers: dict, quantized: dict[Node, Node]) -> None:
    conv, index, fused, *scales, input_bytes, other_bytes = step
    layer = _make_layer(read_convolution(module, conv), fused.activation, scales)
    # Weights in an order for another size would be reordered at every call.
    order = weight_order(layer.packed)
    layer = layers.setdefault((index, fused.activation, *scales, order), layer)
    if not input_bytes:
        conv.update_arg(0, _quantized(module, conv.args[0], step.input, quantized))
    if fused.other is not None:
        # The summand of the plan may have been replaced since.
        (added,) = conv.users
        other = next(node for node in added.all_input_nodes if node is not conv)
        if step.other and not other_bytes:
            other = _quantized(module, other, step.other, quantized)
        fused = fused._replace(other=other)
    replace_fused(module, conv, fused, layer)


def _quantized(module: GraphModule, value: Any, scale: Scale, quantized: dict[Node, Node]) -> Node:
    """Return a node with the bytes of a value in float32, one for all that read it."""
    if value not in quantized:
        with module.graph.inserting_after(value):
            node = module.graph.call_function(quantize, (value, scale))
        node.meta = dict(value.meta)
        quantized[value] = node
    return quantized[value]


def _replace_pooling(module: GraphModule, pooled: Node) -> None:
    source: Any = pooled.args[0]
    x, size, *rest = source.args
    defaults = [size, [0, 0], [1, 1], False]
    stride, padding, dilation, ceil_mode = [*rest, *defaults[len(rest) :]]
    with module.graph.inserting_before(pooled):
        node = module.graph.call_function(max_pool, (x, size, stride or size, padding, dilation, ceil_mode))
    node.meta = dict(pooled.meta)
    pooled.replace_all_uses_with(node)


def _make_layer(convolution: Convolution, activation: str, scales: Sequence[Scale | None]) -> QuantizedConv2d:
    weight, bias, stride, padding, dilation, groups, shape = convolution
    input_scale, output_scale, other_scale = scales
    assert input_scale is not None
    settings = weight, bias, stride, padding, dilation, groups, activation, shape
    return QuantizedConv2d(*settings, input_scale, output_scale, other_scale)
