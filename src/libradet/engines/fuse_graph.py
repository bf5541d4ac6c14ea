"""Fusion of convolutions with what follows them, in a graph of torch's operators with fixed sizes."""

import operator
from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from libradet.models.ops.packed_conv import PackedConv2d, weight_order
from libradet.models.ops.tiled_winograd import TiledWinograd, fits_tiled_winograd

aten = torch.ops.aten

ACTIVATIONS: dict[Any, str] = {
    aten.relu.default: "relu",
    aten.hardswish.default: "hardswish",
    aten.silu.default: "swish",
}
"""Activations that oneDNN computes after a convolution, and its names for them."""

Layers = dict[tuple, nn.Module]
"""Packed layers, by weight, bias, settings and order of the weights, so that graphs of several sizes share them."""


class Convolution(NamedTuple):
    """Arguments of a convolution."""

    weight: Tensor
    bias: Tensor | None
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    input_shape: tuple[int, ...]

    @property
    def fits_winograd(self) -> bool:
        """Whether Winograd's filtering computes it faster."""
        if self.groups != 1 or not self.stride == self.padding == self.dilation == [1, 1]:
            return False
        return fits_tiled_winograd(self.weight, *self.input_shape[2:])


class Fused(NamedTuple):
    """A convolution with what follows it.

    Attributes:
        last: node whose value the operators yield together.
        other: summand, whose memory may be overwritten; None without a sum.
        activation: oneDNN's name of it, "none" without one.
    """

    last: Node
    other: Node | None
    activation: str


def fuse_convolutions(module: GraphModule, layers: Layers) -> GraphModule:
    """Replace, in place, every convolution of constant weights, with the sum and the activation that follow it.

    Args:
        module: graph of operators without side effects.
        layers: packed layers of other graphs of the same detector, to which those of this graph are added.
    """
    fold_constants(module)
    for node in list(module.graph.nodes):
        if node.target is aten.convolution.default and has_constant_weight(node):
            _replace(module, node, layers)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def fold_constants(module: GraphModule) -> None:
    """Replace, in place, operators of constants by their results."""
    constants: dict[Node, Tensor] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            constants[node] = getattr(module, node.target)
        elif node.op == "call_function" and isinstance(node.meta.get("val"), Tensor):
            inputs = node.all_input_nodes
            if inputs and all(own in constants for own in inputs):
                arguments = torch.fx.node.map_arg((node.args, node.kwargs), lambda own: constants[own])
                constants[node] = node.target(*arguments[0], **arguments[1])
                _replace_with_constant(module, node, constants)
    module.graph.eliminate_dead_code()


def _replace_with_constant(module: GraphModule, node: Node, constants: dict[Node, Tensor]) -> None:
    name = f"folded_{node.name}"
    module.register_buffer(name, constants[node], persistent=False)
    with module.graph.inserting_before(node):
        constant = module.graph.get_attr(name)
    constant.meta = dict(node.meta)
    constants[constant] = constants[node]
    node.replace_all_uses_with(constant)


def has_constant_weight(node: Node) -> bool:
    """Whether a convolution of maps has constants as weights, and is not transposed."""
    arguments: Any = node.args
    x, weight, bias, *_, transposed, _, _ = arguments
    is_constant = weight.op == "get_attr" and (bias is None or bias.op == "get_attr")
    return is_constant and not transposed and x.meta["val"].dim() == 4


def _replace(module: GraphModule, conv: Node, layers: Layers) -> None:
    convolution = read_convolution(module, conv)
    winograd = convolution.fits_winograd
    # Winograd's convolutions have no sum and no other activation.
    fused = follow(conv, with_sum=not winograd, activations=(aten.relu.default,) if winograd else tuple(ACTIVATIONS))
    layer = _make_layer(convolution, winograd, fused.activation, layers)
    replace_fused(module, conv, fused, layer)


def follow(conv: Node, with_sum: bool, activations: Collection) -> Fused:
    """Return a convolution with the sum and the activation that can be computed with it.

    Args:
        activations: operators that can be, of which oneDNN computes no other than ReLU after a sum.
    """
    last, other = conv, None
    if with_sum and (added := sole_user(conv, (aten.add.Tensor,))) and (other := _overwritable(added, conv)):
        last, activations = added, (aten.relu.default,)
    activated = sole_user(last, activations)
    return Fused(last, other, "none") if activated is None else Fused(activated, other, ACTIVATIONS[activated.target])


def replace_fused(module: GraphModule, conv: Node, fused: Fused, layer: nn.Module) -> Node:
    """Replace a convolution and what follows it by a layer; return the node that calls it."""
    last, other, _ = fused
    name = f"fused_{conv.name}"
    module.add_submodule(name, layer)
    inputs = (conv.args[0],) if other is None else (conv.args[0], other)
    with module.graph.inserting_before(last):
        call = module.graph.call_module(name, inputs)
    call.meta = dict(last.meta)
    last.replace_all_uses_with(call)
    return call


def sole_user(node: Node, targets: Collection) -> Node | None:
    """Return the only user of a node, if it is one of these operators."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target in targets else None


def _overwritable(added: Node, conv: Node) -> Node | None:
    """Return the other summand, if it is a map of equal shape that nothing needs after the sum."""
    if added.kwargs or len(added.args) != 2:
        return None
    first, second = added.args
    other = second if first is conv else first
    # A convolution reads its input while it writes the sum.
    if not isinstance(other, Node) or other in (conv, conv.args[0]) or other.op not in ("call_function", "call_module"):
        return None
    own, theirs = conv.meta["val"], other.meta["val"]
    same = own.shape == theirs.shape and own.dtype == theirs.dtype
    later = any(user is not added and not user < added for user in other.users)
    shared = _is_view(other) or any(_is_view(user) or user.op == "output" for user in other.users)
    return other if same and not later and not shared else None


def _is_view(node: Node) -> bool:
    """Whether the value of a node may lie in the memory of an input: a view, or an item of a list of views."""
    if node.target is operator.getitem:
        source: Any = node.args[0]
        return _is_view(source)
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(own.alias_info is not None for own in schema.returns)


def read_convolution(module: GraphModule, conv: Node) -> Convolution:
    """Return the arguments of a convolution of constant weights."""
    arguments: Any = conv.args
    x, weight, bias, stride, padding, dilation, _, _, groups = arguments
    bias = None if bias is None else getattr(module, bias.target)
    sizes = (list(stride), list(padding), list(dilation))
    return Convolution(getattr(module, weight.target), bias, *sizes, groups, tuple(x.meta["val"].shape))


def _make_layer(convolution: Convolution, winograd: bool, activation: str, layers: Layers) -> nn.Module:
    weight, bias, stride, padding, dilation, groups, shape = convolution
    layer = (
        TiledWinograd(weight, bias, activation == "relu", (shape[2], shape[3]))
        if winograd
        else PackedConv2d(weight, bias, stride, padding, dilation, groups, activation, shape)
    )
    # Weights in an order for another size would be reordered at every call.
    order = weight_order(layer.packed)
    settings = (*stride, *padding, *dilation, groups)
    pointers = weight.data_ptr(), None if bias is None else bias.data_ptr()
    return layers.setdefault((*pointers, weight.shape, settings, winograd, activation, order), layer)
