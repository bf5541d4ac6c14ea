"""Soft-NMS (Bodla et al., ICCV 2017) with an output of fixed size, as one operator.

Greedy NMS removes a box that overlaps a better one; Soft-NMS lowers its score, the more the larger their IoU.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libradet.geometry.boxes import pairwise_iou

Decay = Literal["linear", "gaussian"]
"""Factor of a score (equations 3 and 4 of the section "Soft-NMS"): 1 - IoU where the IoU exceeds a threshold, or
exp(-IoU² / σ) at any IoU."""


@torch.library.custom_op("libradet::soft_nms", mutates_args=())
def _soft_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    valid: Tensor,
    decay: str,
    threshold: float,
    sigma: float,
    min_score: float,
    size: int,
) -> tuple[Tensor, Tensor]:
    # Few of all pairs of box and class are valid: work on as many columns as the image with the most valid ones needs.
    width = int(valid.sum(1).amax()) if len(valid) else 0
    rows = valid.int().argsort(dim=1, descending=True, stable=True)[:, :width]
    image = torch.arange(len(boxes), device=boxes.device)
    boxes, groups = boxes.float()[image[:, None], rows], groups.gather(1, rows)
    remaining = _zero_below(scores.float().gather(1, rows).where(valid.gather(1, rows), 0), min_score)
    kept, lowered = [], []
    for _ in range(min(size, width)):
        score, best = remaining.max(1)
        kept.append(rows[image, best])
        lowered.append(score)
        iou = pairwise_iou(boxes[image, best][:, None], boxes)[:, 0]
        same_group = groups == groups[image, best][:, None]
        remaining = remaining * _factor(iou, decay, threshold, sigma).where(same_group, 1)
        remaining = _zero_below(remaining.scatter(1, best[:, None], 0), min_score)
    if not kept:
        return rows.new_zeros(len(boxes), size), remaining.new_zeros(len(boxes), size)
    selected, final = (F.pad(torch.stack(t, 1), (0, size - len(t))) for t in (kept, lowered))
    return selected * (final > 0), final


def _factor(iou: Tensor, decay: str, threshold: float, sigma: float) -> Tensor:
    return (1 - iou).where(iou > threshold, 1) if decay == "linear" else (-iou.square() / sigma).exp()


def _zero_below(scores: Tensor, min_score: float) -> Tensor:
    return scores.where(scores > min_score, 0)


@_soft_nms.register_fake
def _(boxes, scores, groups, valid, decay, threshold, sigma, min_score, size):
    shape = (boxes.shape[0], size)
    return boxes.new_empty(shape, dtype=torch.int64), boxes.new_empty(shape, dtype=torch.float32)


def soft_nms(
    boxes: Float[Tensor, "B N 4"],
    scores: Float[Tensor, "B N"],
    groups: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    *,
    decay: Decay,
    threshold: float,
    sigma: float,
    min_score: float,
    size: int,
) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """Apply Soft-NMS inside each group (class) of each image.

    Args:
        scores: at least 0.
        valid: which candidates are used.
        decay: how the scores of overlapping boxes are lowered.
        threshold: IoU above which linear decay applies; Gaussian decay has no threshold.
        sigma: of Gaussian decay.
        min_score: a box whose score is, or falls to, this value or less is dropped.
        size: K, the number of output slots.

    Returns:
        Rows of the ``size`` best boxes by falling lowered score (0 in empty slots), these scores, and which slots are
        filled.
    """
    options = decay, threshold, sigma, min_score, size
    rows, final = _soft_nms(boxes.detach(), scores.detach(), groups, valid, *options)
    return rows, final, final > 0
