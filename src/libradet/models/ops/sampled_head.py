"""A convolutional head at sampled positions only, for its backward pass.

A loss on a few hundred sampled anchors has a gradient of zero at all other positions. Two dense convolutions in the
backward pass would compute and sum these zeros, and the maps that they need would be kept from the forward pass. Here
the head is evaluated once more at the sampled positions, as a matrix product of their 3x3 neighborhoods, and gradients
flow through that: they are those of the dense head, in another order of summation.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from libradet.models.ops.trained_winograd import TrainedWinogradConv2d

KERNEL = 3


def is_supported(convs: nn.ModuleList, samples_per_image: int, features: Sequence[Float[Tensor, "B C _ _"]]) -> bool:
    """Return whether the backward pass may use sampled positions only: for one plain 3x3 convolution, and few samples.

    Up to this number of samples, their neighborhoods need no more memory than the hidden map of the dense head. A
    compiler gets the dense head, whose passes it fuses, and so does a GPU, which sums the neighborhoods in no fixed
    order.
    """
    cells = sum(x.shape[2] * x.shape[3] for x in features)
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or features[0].device.type != "cpu":
        return False
    if len(convs) != 1:
        return False
    # Wrapped or parametrized convolutions are other functions of their weight.
    return type(convs[0]) in (nn.Conv2d, TrainedWinogradConv2d) and KERNEL**2 * samples_per_image <= cells


def neighborhoods(
    features: Sequence[Float[Tensor, "B C _ _"]], index: Int[Tensor, "B S"], num_anchors: int
) -> Float[Tensor, "BS C9"]:
    """Return the 3x3 neighborhood of the cell of each sampled anchor, zero outside of its level.

    Args:
        index: of the anchors, levels concatenated, each in row-major order with ``num_anchors`` in a cell.
    """
    offsets = torch.arange(KERNEL, device=index.device) - 1
    image = torch.arange(len(index), device=index.device)[:, None, None, None]
    patches = features[0].new_zeros(())
    start = 0
    for x in features:
        height, width = x.shape[2:]
        size = height * width * num_anchors
        in_level = (index >= start) & (index < start + size)
        cell = (index - start).clamp(0, size - 1) // num_anchors
        rows = (cell // width)[..., None, None] + offsets[:, None]
        columns = (cell % width)[..., None, None] + offsets
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width) & in_level[..., None, None]
        at = (image * height + rows.clamp(0, height - 1)) * width + columns.clamp(0, width - 1)
        pixels = _Pixels.apply(x, at.flatten())
        patches = torch.where(inside.flatten()[:, None], pixels, patches)
        start += size
    return patches.reshape(index.numel(), -1)


def predict_at(
    patches: Float[Tensor, "BS C9"],
    index: Int[Tensor, "B S"],
    conv: nn.Conv2d,
    weight: Float[Tensor, "A5 C 1 1"],
    bias: Float[Tensor, " A5"],
) -> Float[Tensor, "B S 5"]:
    """Return logit and deltas of each sampled anchor.

    Args:
        patches: see :func:`neighborhoods`.
        weight, bias: of the layer after the convolution; logits of all anchors of a cell, then their deltas.
    """
    num_anchors = len(weight) // 5
    hidden = F.relu(F.linear(patches, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias))
    both = F.linear(hidden, weight.flatten(1), bias)
    anchor = (index.flatten() % num_anchors)[:, None]
    logits = both[:, :num_anchors].gather(1, anchor)
    columns = num_anchors + 4 * anchor + torch.arange(4, device=index.device)
    return torch.cat([logits, both.gather(1, columns)], 1).unflatten(0, index.shape)


class _Pixels(torch.autograd.Function):
    """Pixels of a level by their row, image by image. torch's own gradient would copy a map of zeros."""

    @staticmethod
    def forward(x: Tensor, at: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).index_select(0, at)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, at = inputs
        ctx.save_for_backward(at)
        ctx.shape = x.shape

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (at,) = ctx.saved_tensors
        batch, channels, height, width = ctx.shape
        pixels = grads[0].new_zeros(batch * height * width, channels).index_add_(0, at, grads[0])
        return pixels.view(batch, height, width, channels).permute(0, 3, 1, 2), None


def with_gradient_of(source: Float[Tensor, "*N"], value: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Return ``value``, whose gradient is passed to ``source``: the same numbers, computed in another order."""
    return _WithGradientOf.apply(source, value)


class _WithGradientOf(torch.autograd.Function):
    @staticmethod
    def forward(source: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0].to(ctx.dtype), None
