"""Convolutions fused with batch norms of fixed statistics, in training (at every call) and for inference (once)."""

from copy import deepcopy
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from libradet.models.ops import trained_winograd
from libradet.models.ops.fast_depthwise import conv_gradients


class ConvNorm(nn.Module):
    """A convolution and its norm; one fused convolution while a batch norm's statistics are fixed.

    A convolution and a batch norm are a convolution of weight w * gamma / sigma and bias beta - mu * gamma / sigma. It
    is fused at every call from the current parameters, so gradients are those of the two layers, and one pass over
    memory and one saved activation are avoided.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm

    def forward(self, x: Float[Tensor, "B Ci Hi Wi"]) -> Float[Tensor, "B Co Ho Wo"]:
        """Return the normalized output of the convolution."""
        scale_shift = bn_scale_shift(self.conv, self.norm)
        return self.norm(self.conv(x)) if scale_shift is None else fused_conv(x, *scale_shift, self.conv)


def pair_convs_with_norms(module: nn.Module) -> None:
    """Replace, in place, every convolution directly followed by its plain batch norm with a :class:`ConvNorm`."""
    for (name, conv), (next_name, norm) in pairwise(list(module.named_children())):
        if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and can_fuse(conv, norm):
            setattr(module, name, ConvNorm(conv, norm))
            setattr(module, next_name, nn.Identity())
    for child in module.children():
        if not isinstance(child, ConvNorm):
            pair_convs_with_norms(child)


@torch.no_grad()
def fuse_conv_bn(module: nn.Module) -> None:
    """Replace, in place, every convolution and batch norm of fixed statistics with one convolution."""
    from timm.layers import BatchNormAct2d

    for name, child in module.named_children():
        if not isinstance(child, ConvNorm):
            fuse_conv_bn(child)
        elif (scale_shift := bn_scale_shift(child.conv, child.norm)) is not None:
            setattr(module, name, _fused_copy(child.conv, *scale_shift))
    # timm's batch norms that include an activation, also after its convolutions that pad like TensorFlow's.
    for (name, conv), (next_name, norm) in pairwise(list(module.named_children())):
        if not (isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNormAct2d) and can_fuse(conv, norm)):
            continue
        if (scale_shift := bn_scale_shift(conv, norm)) is not None:
            setattr(module, name, _fused_copy(conv, *scale_shift))
            setattr(module, next_name, nn.Sequential(norm.drop, norm.act))


def can_fuse(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    """Whether the norm fits the output of the convolution, which pads with zeros."""
    fits = conv.padding_mode == "zeros" and conv.out_channels == norm.num_features
    return fits and norm.affine and norm.track_running_stats


def bn_scale_shift(conv: nn.Conv2d, norm: nn.Module) -> tuple[Float[Tensor, "Co 1 1 1"], Float[Tensor, " Co"]] | None:
    """Return gamma / sigma, the factor of the convolution's weight, and the fused bias; None if statistics change."""
    if not isinstance(norm, nn.BatchNorm2d) or norm.training or norm.running_var is None or norm.running_mean is None:
        return None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    shift = shift if conv.bias is None else shift + conv.bias * scale
    return scale[:, None, None, None], shift


def fused_conv(
    x: Float[Tensor, "B Ci Hi Wi"], scale: Float[Tensor, "Co 1 1 1"], shift: Float[Tensor, " Co"], conv: nn.Conv2d
) -> Float[Tensor, "B Co Ho Wo"]:
    """Return ``conv`` of ``x`` with its weight times ``scale``, and ``shift`` as bias.

    The backward pass multiplies again instead of saving the product, which is as large as all weights together; the
    multiplication costs little compared with a convolution.
    """
    arguments = (conv.stride, conv.padding, conv.dilation, conv.groups)
    # A compiler decides itself what to recompute.
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or isinstance(conv.padding, str):
        return F.conv2d(x, conv.weight * scale, shift, *arguments)
    device = x.device.type
    uses_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if uses_autocast else x.dtype
    by_winograd = trained_winograd.uses_winograd(conv, x)
    return _FusedConv.apply(x.to(dtype), conv.weight, scale, shift.to(dtype), by_winograd, *arguments)


class _FusedConv(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, by_winograd: bool, *arguments: Any) -> Tensor:
        product = (weight * scale).to(x.dtype)
        if by_winograd:
            return trained_winograd.convolve(x, product, shift)
        return F.conv2d(x, product, shift, *arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.by_winograd, ctx.arguments = inputs[4], inputs[5:]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight, scale = ctx.saved_tensors
        needs_x, needs_weight, needs_scale, needs_shift = ctx.needs_input_grad[:4]
        needs = (needs_x, needs_weight or needs_scale, needs_shift)
        product = (weight * scale).to(x.dtype)
        if ctx.by_winograd:
            grad_x, product, grad_shift = trained_winograd.gradients(grads[0], x, product, needs)
        else:
            grad_x, product, grad_shift = conv_gradients(grads[0], x, product, ctx.arguments, needs)
        product = None if product is None else product.to(weight.dtype)
        grad_weight = product * scale if needs_weight and product is not None else None
        grad_scale = (product * weight).sum((1, 2, 3), keepdim=True) if needs_scale and product is not None else None
        return grad_x, grad_weight, grad_scale, grad_shift, None, None, None, None, None


def _fused_copy(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> nn.Conv2d:
    fused = deepcopy(conv, {id(conv.weight): conv.weight})  # all but the weight, which is replaced
    fused.weight = nn.Parameter(conv.weight * scale, requires_grad=False)
    fused.bias = nn.Parameter(shift, requires_grad=False)
    return fused
