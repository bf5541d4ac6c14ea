"""A convolution and a batch norm of fixed statistics are one convolution."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from libradet.models.depthwise import conv_gradients


def can_fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    """Whether the norm is one of what comes out of the convolution, which pads with zeros."""
    fits = conv.padding_mode == "zeros" and conv.out_channels == norm.num_features
    return fits and norm.affine and norm.track_running_stats


def fixed_scale(conv: nn.Conv2d, norm: nn.Module) -> tuple[Float[Tensor, "Co 1 1 1"], Float[Tensor, " Co"]] | None:
    """γ/σ, by which the convolution's weight is to be multiplied, and its bias then; None if statistics change."""
    if not isinstance(norm, nn.BatchNorm2d) or norm.training or norm.running_var is None or norm.running_mean is None:
        return None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    shift = shift if conv.bias is None else shift + conv.bias * scale
    return scale[:, None, None, None], shift


def folded_conv(
    x: Float[Tensor, "B Ci Hi Wi"], scale: Float[Tensor, "Co 1 1 1"], shift: Float[Tensor, " Co"], conv: nn.Conv2d
) -> Float[Tensor, "B Co Ho Wo"]:
    """``conv`` with its weight times ``scale``, and ``shift`` as bias.

    The backward pass multiplies again: a backbone's scaled weights are as large as itself, and a product of
    weights is nothing beside a convolution.
    """
    arguments = (conv.stride, conv.padding, conv.dilation, conv.groups)
    # A compiler decides itself what is computed again.
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or isinstance(conv.padding, str):
        return F.conv2d(x, conv.weight * scale, shift, *arguments)
    device = x.device.type
    lower = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if lower else x.dtype
    return _FoldedConv.apply(x.to(dtype), conv.weight, scale, shift.to(dtype), *arguments)


class _FoldedConv(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, *arguments: Any) -> Tensor:
        return F.conv2d(x, (weight * scale).to(x.dtype), shift, *arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.arguments = inputs[4:]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight, scale = ctx.saved_tensors
        needs_x, needs_weight, needs_scale, needs_shift = ctx.needs_input_grad[:4]
        needs = (needs_x, needs_weight or needs_scale, needs_shift)
        grad_x, product, grad_shift = conv_gradients(grads[0], x, (weight * scale).to(x.dtype), ctx.arguments, needs)
        product = None if product is None else product.to(weight.dtype)
        grad_weight = product * scale if needs_weight and product is not None else None
        grad_scale = (product * weight).sum((1, 2, 3), keepdim=True) if needs_scale and product is not None else None
        return grad_x, grad_weight, grad_scale, grad_shift, None, None, None, None
