"""Operations on boxes: xyxy floats in pixels, without the "+1" of early detectors."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Upper limit of the log ratio of sides in decoding; keeps exp() finite (Faster R-CNN's own constant).
MAX_LOG_RATIO = math.log(1000 / 16)


def box_area(boxes: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N"]:
    """Return the areas in square pixels; 0 where a side is negative."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def intersection(a: Float[Tensor, "B N 4"], b: Float[Tensor, "B G 4"]) -> Float[Tensor, "B N G"]:
    """Return the area of the intersection of each pair, in square pixels."""
    # Coordinate by coordinate: half the memory of working on corners, which matters with all anchors of a pyramid.
    a_left, a_top, a_right, a_bottom = a[:, :, None].unbind(-1)
    b_left, b_top, b_right, b_bottom = b[:, None].unbind(-1)
    width = (torch.minimum(a_right, b_right) - torch.maximum(a_left, b_left)).clamp(min=0)
    height = (torch.minimum(a_bottom, b_bottom) - torch.maximum(a_top, b_top)).clamp(min=0)
    return width * height


def pairwise_iou(a: Float[Tensor, "B N 4"], b: Float[Tensor, "B G 4"]) -> Float[Tensor, "B N G"]:
    """Return the intersection over union of each pair; 0 where both boxes are empty."""
    shared = intersection(a, b)
    union = box_area(a)[:, :, None] + box_area(b)[:, None, :] - shared
    return shared / union.clamp(min=1e-6)


def pairwise_iof(a: Float[Tensor, "B N 4"], b: Float[Tensor, "B G 4"]) -> Float[Tensor, "B N G"]:
    """Return the intersection over the area of ``a`` (IoF) of each pair; 0 where ``a`` is empty."""
    return intersection(a, b) / box_area(a).clamp(min=1e-6)[:, :, None]


def encode(
    boxes: Float[Tensor, "*N 4"], targets: Float[Tensor, "*N 4"], std: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
) -> Float[Tensor, "*N 4"]:
    """Compute the deltas (dx, dy, dw, dh) from ``boxes`` to ``targets``, divided by ``std``.

    Shifts are relative to the box's size, sizes are log ratios (R-CNN, appendix C). Sides below 1e-3 px,
    as padding has, count as 1e-3, so that the result is finite everywhere.
    """
    size, target_size = ((b[..., 2:] - b[..., :2]).clamp(min=1e-3) for b in (boxes, targets))
    center, target_center = ((b[..., 2:] + b[..., :2]) / 2 for b in (boxes, targets))
    deltas = torch.cat([(target_center - center) / size, (target_size / size).log()], dim=-1)
    return _scale(deltas, [1 / s for s in std])


def decode(
    boxes: Float[Tensor, "*N 4"], deltas: Float[Tensor, "*N 4"], std: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
) -> Float[Tensor, "*N 4"]:
    """Apply ``deltas`` to ``boxes``: the inverse of :func:`encode`."""
    deltas = _scale(deltas, std)
    size = boxes[..., 2:] - boxes[..., :2]
    center = (boxes[..., 2:] + boxes[..., :2]) / 2 + deltas[..., :2] * size
    half = size * deltas[..., 2:].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() / 2
    return torch.cat([center - half, center + half], dim=-1)


def _scale(deltas: Tensor, factors: Sequence[float]) -> Tensor:
    # Not a multiplication by a tensor: copying ``factors`` to the device would synchronize with it.
    return torch.stack([d * f for d, f in zip(deltas.unbind(-1), factors, strict=True)], dim=-1)


def clip_boxes(boxes: Float[Tensor, "B *N 4"], sizes: Int[Tensor, "B 2"]) -> Float[Tensor, "B *N 4"]:
    """Clip boxes to images of ``sizes`` (height, width)."""
    limit = sizes.flip(-1).repeat(1, 2).to(boxes.dtype)
    limit = limit.view(-1, *[1] * (boxes.dim() - 2), 4)
    return torch.minimum(boxes.clamp(min=0), limit)


def is_larger(boxes: Float[Tensor, "*N 4"], min_size: float) -> Bool[Tensor, "*N"]:
    """Return whether both sides exceed ``min_size`` pixels."""
    return ((boxes[..., 2:] - boxes[..., :2]) > min_size).all(-1)
