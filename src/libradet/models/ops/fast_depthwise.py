"""Depthwise convolutions with fast gradients on a CPU.

oneDNN has fast kernels for the forward pass of depthwise convolutions, and for their gradients if the kernel is 3x3
and, in bf16, the stride is 1. Others use a reference implementation that is ten to fifty times slower, which is
most of a training step of a light backbone. Here they are composed of the fast kernels; results are the same.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

TILE = 3
"""Side of the kernels for which oneDNN has a fast gradient of the weights."""

Arguments = tuple[Sequence[int], Sequence[int], Sequence[int], int]
"""Stride, padding, dilation and groups."""


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution with the parameters of ``conv``.

    Args:
        same: pad with zeros so that output sides are input sides divided by the stride, rounded up (TensorFlow's
            "SAME"), instead of the padding of ``conv``.
    """

    def __init__(self, conv: nn.Conv2d, same: bool) -> None:
        kernel, stride, padding = conv.kernel_size, conv.stride, conv.padding
        options: Any = {"groups": conv.groups, "bias": conv.bias is not None, "device": "meta"}
        super().__init__(conv.in_channels, conv.out_channels, kernel, stride, padding, **options)  # type: ignore
        self.weight, self.bias, self.same = conv.weight, conv.bias, same

    def forward(self, x: Float[Tensor, "B C Hi Wi"]) -> Float[Tensor, "B C Ho Wo"]:
        """Return the convolution of ``x``."""
        assert not isinstance(self.padding, str)
        arguments = (self.stride, self.padding, self.dilation, self.groups)
        x = _pad_same(x, self.kernel_size, self.stride) if self.same else x
        return depthwise(x, self.weight, self.bias, arguments)


def replace_depthwise_convs(module: nn.Module) -> None:
    """Replace, in place, every depthwise convolution with a :class:`DepthwiseConv2d`."""
    from timm.layers.conv2d_same import Conv2dSame

    for name, child in module.named_children():
        is_plain = isinstance(child, nn.Conv2d) and type(child) in (nn.Conv2d, Conv2dSame)
        if is_plain and _is_depthwise(child):
            setattr(module, name, DepthwiseConv2d(child, type(child) is Conv2dSame))
        else:
            replace_depthwise_convs(child)


def depthwise(
    x: Float[Tensor, "B C Hi Wi"], weight: Float[Tensor, "C 1 _ _"], bias: Tensor | None, arguments: Arguments
) -> Float[Tensor, "B C Ho Wo"]:
    """Return torch's ``conv2d``; under autocast, in its precision."""
    if x.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.conv2d(x, weight, bias, *arguments)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return _Depthwise.apply(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype), *arguments)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any) -> Tensor:
        return F.conv2d(x, weight, bias, *arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.arguments = inputs[3:]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight = ctx.saved_tensors
        return *conv_gradients(grads[0], x, weight, ctx.arguments, ctx.needs_input_grad[:3]), None, None, None, None


def conv_gradients(
    grad: Float[Tensor, "B Co Ho Wo"],
    x: Float[Tensor, "B Ci Hi Wi"],
    weight: Float[Tensor, "Co I _ _"],
    arguments: Arguments,
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of a convolution's input, weight and bias; None where not needed."""
    stride, padding, dilation, groups = arguments
    if x.device.type != "cpu" or weight.shape[1] > 1 or groups != len(weight) or max(dilation) > 1:
        options = ([len(weight)], stride, padding, dilation, False, [0, 0], groups)
        return torch.ops.aten.convolution_backward(grad, x, weight, *options, list(needs))
    grad = grad.contiguous(memory_format=torch.channels_last)
    return (
        _input_gradient(grad, x, weight, stride, padding) if needs[0] else None,
        _weight_gradient(grad, x, weight, stride, padding) if needs[1] else None,
        grad.sum((0, 2, 3)) if needs[2] else None,
    )


def _input_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    kernel = weight.shape[2:]
    if max(stride) == 1 and all(k > p for k, p in zip(kernel, padding, strict=True)):
        # The transpose of such a convolution is one with the flipped kernel.
        transposed_padding = [k - 1 - p for k, p in zip(kernel, padding, strict=True)]
        return F.conv2d(grad, weight.flip(2, 3), padding=transposed_padding, groups=len(weight))
    # With strides there are fast kernels in float32 only.
    return _aten(grad.float(), x.float(), weight.float(), stride, padding, 0).to(x.dtype)


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    if max(weight.shape[2:]) <= TILE:
        return _aten(grad, x.contiguous(memory_format=torch.channels_last), weight, stride, padding, 1)
    tiles = [-(-k // TILE) for k in weight.shape[2:]]
    reach = [(o - 1) * s + TILE for o, s in zip(grad.shape[2:], stride, strict=True)]
    padded = _pad_to(x, padding, [r + TILE * (n - 1) for r, n in zip(reach, tiles, strict=True)])
    tile = weight.new_empty(len(weight), 1, TILE, TILE)

    def of_tile(top: int, left: int) -> Tensor:
        window = padded[:, :, top : top + reach[0], left : left + reach[1]]
        return _aten(grad, window, tile, stride, (0, 0), 1)

    rows = [torch.cat([of_tile(TILE * i, TILE * j) for j in range(tiles[1])], 3) for i in range(tiles[0])]
    return torch.cat(rows, 2)[:, :, : weight.shape[2], : weight.shape[3]]


def _pad_to(x: Tensor, padding: Sequence[int], sides: Sequence[int]) -> Tensor:
    """Pad with zeros: ``padding`` at the top and left, and up to ``sides`` at the bottom and right."""
    (top, left), (height, width) = padding, sides
    right, bottom = width - left - x.shape[3], height - top - x.shape[2]
    return F.pad(x, (left, right, top, bottom)).contiguous(memory_format=torch.channels_last)


def _aten(grad: Tensor, x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], which: int) -> Tensor:
    needs = [which == 0, which == 1, False]
    options = (None, stride, padding, (1, 1), False, (0, 0), len(weight))
    return torch.ops.aten.convolution_backward(grad, x, weight, *options, needs)[which]


def _is_depthwise(conv: nn.Conv2d) -> bool:
    one_channel_per_group = conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1
    if not one_channel_per_group or isinstance(conv.padding, str):
        return False
    return conv.padding_mode == "zeros" and max(conv.dilation) == 1


def _pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    from timm.layers.padding import pad_same

    return pad_same(x, list(kernel), list(stride))
