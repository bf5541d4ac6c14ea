"""Boxes with a chosen distribution of IoU around ground truths, as further positives of a box head."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

_BISECTIONS = 12
"""Halvings of the interval of the offset's length: IoUs are exact to about 1e-3."""


@torch.no_grad()
def generate_boxes(
    gt_boxes: Float[Tensor, "B G 4"], count: int, min_iou: float, generator: Generator | None = None
) -> Float[Tensor, "B N 4"]:
    """Draw ``count`` boxes for each ground truth, N in total, whose IoUs with it are uniform in [``min_iou``, 1).

    Proposals near the threshold of positives outnumber accurate ones; these boxes are balanced over IoU (Oksuz et al.,
    Generating Positive Bounding Boxes for Balanced Training of Object Detectors, WACV 2020). Each box offsets the
    corners of its ground truth in a random direction, by the length at which the IoU is the one that was drawn.

    Args:
        gt_boxes: xyxy in pixels; rows without area, as padding, produce boxes without area.
        min_iou: at least 0.5.

    Raises:
        ValueError: ``min_iou`` is below 0.5, which not every direction reaches.
    """
    if min_iou < 0.5:
        raise ValueError(f"min_iou is {min_iou}; it must be at least 0.5")
    boxes = gt_boxes.repeat_interleave(count, dim=1)
    target = min_iou + (1 - min_iou) * torch.rand(boxes.shape[:2], device=boxes.device, generator=generator)
    direction = 2 * torch.rand(boxes.shape, device=boxes.device, generator=generator) - 1
    # The longest offset moves a side by the whole extent of the box: there the IoU is at most 0.5.
    direction = direction / direction.abs().amax(2, keepdim=True).clamp(min=1e-6)
    extent = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2)
    low, high = torch.zeros_like(target), torch.ones_like(target)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        is_above = _aligned_iou(boxes, boxes + middle[..., None] * direction * extent) >= target
        low, high = torch.where(is_above, middle, low), torch.where(is_above, high, middle)
    return boxes + low[..., None] * direction * extent


def _aligned_iou(a: Float[Tensor, "B N 4"], b: Float[Tensor, "B N 4"]) -> Float[Tensor, "B N"]:
    """Return the IoU of each box with the one in the same row."""
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    shared = sides.clamp(min=0).prod(2)
    area_a, area_b = ((x[..., 2:] - x[..., :2]).clamp(min=0).prod(2) for x in (a, b))
    return shared / (area_a + area_b - shared).clamp(min=1e-6)
