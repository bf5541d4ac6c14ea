"""RoIAlign over a pyramid as one operator: each box reads the level that fits its size (FPN, equation 1)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import roi_align


def assign_levels(
    boxes: Float[Tensor, "*N 4"], strides: Sequence[int], canonical_size: float = 224.0, canonical_level: int = 4
) -> Int[Tensor, "*N"]:
    """Index into ``strides`` of the level for each box: one of side ``canonical_size`` reads stride 2^``canonical_level``."""
    side = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1).sqrt()
    level = torch.floor(canonical_level + torch.log2(side / canonical_size + 1e-6))
    lowest = strides[0].bit_length() - 1
    return (level.clamp(lowest, lowest + len(strides) - 1) - lowest).long()


@torch.library.custom_op("libradet::pyramid_roi_align", mutates_args=())
def _pyramid_roi_align(
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    strides: Sequence[int],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    rois = _as_rois(boxes)
    out = pyramid[0].new_zeros((len(rois), pyramid[0].shape[1], size, size), dtype=torch.float32)
    for level, (features, stride) in enumerate(zip(pyramid, strides, strict=True)):
        rows = (levels.flatten() == level).nonzero().squeeze(1)
        out[rows] = roi_align(features.float(), rois[rows], size, 1 / stride, sampling_ratio, aligned)
    return out.to(pyramid[0].dtype)


@_pyramid_roi_align.register_fake
def _(pyramid, boxes, levels, strides, size, sampling_ratio, aligned):
    return pyramid[0].new_empty((boxes.shape[0] * boxes.shape[1], pyramid[0].shape[1], size, size))


@torch.library.custom_op("libradet::pyramid_roi_align_backward", mutates_args=())
def _pyramid_roi_align_backward(
    grad: Tensor,
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    strides: Sequence[int],
    sampling_ratio: int,
    aligned: bool,
) -> list[Tensor]:
    rois, size, grads = _as_rois(boxes), grad.shape[-1], []
    for level, (features, stride) in enumerate(zip(pyramid, strides, strict=True)):
        rows = (levels.flatten() == level).nonzero().squeeze(1)
        g = torch.ops.torchvision._roi_align_backward(
            grad[rows].float(), rois[rows], 1 / stride, size, size, *features.shape, sampling_ratio, aligned
        )
        grads.append(g.to(features.dtype))
    return grads


@_pyramid_roi_align_backward.register_fake
def _(grad, pyramid, boxes, levels, strides, sampling_ratio, aligned):
    return [torch.empty_like(features, memory_format=torch.contiguous_format) for features in pyramid]


def _as_rois(boxes: Tensor) -> Tensor:
    picture = torch.arange(len(boxes), device=boxes.device, dtype=torch.float32)
    picture = picture[:, None, None].expand(-1, boxes.shape[1], 1)
    return torch.cat([picture, boxes.float()], dim=2).flatten(0, 1)


def _setup_context(ctx, inputs, output) -> None:
    pyramid, boxes, levels, strides, _, sampling_ratio, aligned = inputs
    ctx.save_for_backward(boxes, levels, *pyramid)
    ctx.arguments = strides, sampling_ratio, aligned


def _backward(ctx, grad):
    boxes, levels, *pyramid = ctx.saved_tensors
    grads = _pyramid_roi_align_backward(grad, pyramid, boxes, levels, *ctx.arguments)
    return grads, None, None, None, None, None, None


_pyramid_roi_align.register_autograd(_backward, setup_context=_setup_context)


def pyramid_roi_align(
    pyramid: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "B S 4"],
    valid: Bool[Tensor, "B S"],
    strides: Sequence[int],
    *,
    size: int = 7,
    sampling_ratio: int = 2,
    aligned: bool = True,
    canonical_size: float = 224.0,
    canonical_level: int = 4,
) -> Float[Tensor, "BS C size size"]:
    """Features of each box, ``size`` × ``size`` bins, the pictures' boxes one after the other.

    Boxes that are not ``valid`` cost nothing and give zeros. ``sampling_ratio`` 0 adapts the samples per
    bin to the box. Gradients flow to the pyramid, not to the boxes.
    """
    levels = assign_levels(boxes, strides, canonical_size, canonical_level).masked_fill(~valid, -1)
    return _pyramid_roi_align(list(pyramid), boxes.detach(), levels, list(strides), size, sampling_ratio, aligned)
