"""RoIAlign on a pyramid as one operator: each box is pooled from the level that fits its size (FPN, equation 1)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchvision.ops import roi_align

from libradet.geometry.roi_align_cpu import SamplingPoints, gather_bins, sampling_points, scatter_bins
from libradet.utils.eager import is_plain_inference


def assign_levels(
    boxes: Float[Tensor, "*N 4"], strides: Sequence[int], canonical_size: float = 224.0, canonical_level: int = 4
) -> Int[Tensor, "*N"]:
    """Return the index into ``strides`` of the level of each box.

    A box of side ``canonical_size`` is pooled from the level of stride 2^``canonical_level``.
    """
    side = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1).sqrt()
    level = torch.floor(canonical_level + torch.log2(side / canonical_size + 1e-6))
    lowest = strides[0].bit_length() - 1
    return (level.clamp(lowest, lowest + len(strides) - 1) - lowest).long()


def _pool(
    pyramid: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    strides: Sequence[int],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    out = pyramid[0].new_zeros((*boxes.shape[:2], pyramid[0].shape[1], size, size))
    if out.device.type != "cpu":
        for level, features in enumerate(pyramid):
            rows, rois = _rois_of_level(boxes, levels, level)
            if len(rois):
                pooled = roi_align(features.float(), rois, size, 1 / strides[level], sampling_ratio, aligned)
                out.flatten(0, 1)[rows] = pooled.to(out.dtype)
        return out.flatten(0, 1)
    shapes = [s for x in pyramid for s in x.shape[2:]]
    groups_per_image = _sampling_points_per_image(
        boxes, levels, shapes, out.dtype, strides, size, sampling_ratio, aligned
    )
    for b, groups in enumerate(groups_per_image):
        gather_bins([x[b] for x in pyramid], groups, out[b].flatten(2))
    return out.flatten(0, 1)


_pyramid_roi_align = torch.library.custom_op("libradet::pyramid_roi_align", _pool, mutates_args=())


@_pyramid_roi_align.register_fake
def _(pyramid, boxes, levels, strides, size, sampling_ratio, aligned):
    return pyramid[0].new_empty((boxes.shape[0] * boxes.shape[1], pyramid[0].shape[1], size, size))


@torch.library.custom_op("libradet::pyramid_roi_align_backward", mutates_args=())
def _pyramid_roi_align_backward(
    grad: Tensor,
    boxes: Tensor,
    levels: Tensor,
    shapes: Sequence[int],
    channels_last: bool,
    strides: Sequence[int],
    sampling_ratio: int,
    aligned: bool,
) -> list[Tensor]:
    grads = _empty_gradients(grad, boxes, shapes, channels_last)
    size = grad.shape[-1]
    if grad.device.type != "cpu":
        for level, g in enumerate(grads):
            rows, rois = _rois_of_level(boxes, levels, level)
            g.zero_()
            if len(rois):
                scale = 1 / strides[level]
                g[:] = torch.ops.torchvision._roi_align_backward(
                    grad[rows].float(), rois, scale, size, size, *g.shape, sampling_ratio, aligned
                )
        return grads
    groups_per_image = _sampling_points_per_image(
        boxes, levels, shapes, grad.dtype, strides, size, sampling_ratio, aligned
    )
    for b, groups in enumerate(groups_per_image):
        scatter_bins(grad.unflatten(0, boxes.shape[:2])[b].flatten(2), groups, [g[b] for g in grads])
    return grads


@_pyramid_roi_align_backward.register_fake
def _(grad, boxes, levels, shapes, channels_last, strides, sampling_ratio, aligned):
    return _empty_gradients(grad, boxes, shapes, channels_last)


def _empty_gradients(grad: Tensor, boxes: Tensor, shapes: Sequence, channels_last: bool) -> list[Tensor]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    sides = zip(shapes[::2], shapes[1::2], strict=True)
    kind = {"dtype": grad.dtype, "device": grad.device, "memory_format": layout}
    return [torch.empty(len(boxes), grad.shape[1], h, w, **kind) for h, w in sides]


def _sampling_points_per_image(
    boxes: Tensor, levels: Tensor, shapes: Sequence[int], dtype: torch.dtype, strides: Sequence[int], *how
) -> list[list[SamplingPoints]]:
    """Compute the sampling points of each image's boxes."""
    sides = list(zip(shapes[::2], shapes[1::2], strict=True))
    boxes = boxes.to(torch.promote_types(dtype, torch.float32))
    return [sampling_points(b, level, sides, strides, *how) for b, level in zip(boxes, levels, strict=True)]


def _rois_of_level(boxes: Tensor, levels: Tensor, level: int) -> tuple[Tensor, Tensor]:
    """Return the rows (images flattened) of the boxes of ``level``, and these boxes with their image index in front."""
    image, slot = (levels == level).nonzero(as_tuple=True)
    rois = torch.cat([image[:, None].float(), boxes[image, slot].float()], dim=1)
    return image * boxes.shape[1] + slot, rois


def _setup_context(ctx, inputs, output) -> None:
    pyramid, boxes, levels, strides, _, sampling_ratio, aligned = inputs
    ctx.save_for_backward(boxes, levels)
    shapes = [side for x in pyramid for side in x.shape[2:]]
    channels_last = pyramid[0].is_contiguous(memory_format=torch.channels_last)
    ctx.arguments = shapes, channels_last, strides, sampling_ratio, aligned


def _backward(ctx, grad):
    grads = _pyramid_roi_align_backward(grad, *ctx.saved_tensors, *ctx.arguments)
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
    """Pool the features of each box into ``size`` x ``size`` bins; the boxes of all images are concatenated.

    Boxes that are not ``valid`` need no time and have features of zero. Gradients flow to the pyramid only.

    Args:
        strides: of the pyramid levels.
        sampling_ratio: sampling points per bin and axis; 0 adapts their number to the size of the box.
        aligned: shift boxes by half a pixel, as in detectron2.
        canonical_size, canonical_level: see :func:`assign_levels`.
    """
    levels = assign_levels(boxes, strides, canonical_size, canonical_level).masked_fill(~valid, -1)
    pool = _pool if is_plain_inference(boxes) else _pyramid_roi_align
    return pool(list(pyramid), boxes.detach(), levels, list(strides), size, sampling_ratio, aligned)
