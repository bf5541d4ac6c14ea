"""Soft-NMS (Bodla et al., ICCV 2017) with an output of fixed size, as one operator.

Greedy suppression removes what overlaps a better box; this lowers its score, the more they overlap the further.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libradet.geometry.boxes import pairwise_iou

Decay = Literal["linear", "gaussian"]
"""How a score is lowered (equations 3 and 4 of the section "Soft-NMS"): times 1 - IoU where the IoU exceeds a
threshold, or times exp(-IoU² / σ) everywhere."""


@torch.library.custom_op("libradet::soft_suppress", mutates_args=())
def _soft_suppress(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    valid: Tensor,
    decay: str,
    threshold: float,
    sigma: float,
    floor: float,
    size: int,
) -> tuple[Tensor, Tensor]:
    # Of all pairs of box and class few are valid: what remains has the width of the fullest image.
    width = int(valid.sum(1).amax()) if len(valid) else 0
    rows = valid.int().argsort(dim=1, descending=True, stable=True)[:, :width]
    image = torch.arange(len(boxes), device=boxes.device)
    boxes, groups = boxes.float()[image[:, None], rows], groups.gather(1, rows)
    left = _above(scores.float().gather(1, rows).where(valid.gather(1, rows), 0), floor)
    kept, lowered = [], []
    for _ in range(min(size, width)):
        score, best = left.max(1)
        kept.append(rows[image, best])
        lowered.append(score)
        iou = pairwise_iou(boxes[image, best][:, None], boxes)[:, 0]
        rivals = groups == groups[image, best][:, None]
        left = left * _factor(iou, decay, threshold, sigma).where(rivals, 1)
        left = _above(left.scatter(1, best[:, None], 0), floor)
    if not kept:
        return rows.new_zeros(len(boxes), size), left.new_zeros(len(boxes), size)
    chosen, final = (F.pad(torch.stack(t, 1), (0, size - len(t))) for t in (kept, lowered))
    return chosen * (final > 0), final


def _factor(iou: Tensor, decay: str, threshold: float, sigma: float) -> Tensor:
    return (1 - iou).where(iou > threshold, 1) if decay == "linear" else (-iou.square() / sigma).exp()


def _above(scores: Tensor, floor: float) -> Tensor:
    return scores.where(scores > floor, 0)


@_soft_suppress.register_fake
def _(boxes, scores, groups, valid, decay, threshold, sigma, floor, size):
    shape = (boxes.shape[0], size)
    return boxes.new_empty(shape, dtype=torch.int64), boxes.new_empty(shape, dtype=torch.float32)


def soft_suppress(
    boxes: Float[Tensor, "B N 4"],
    scores: Float[Tensor, "B N"],
    groups: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    *,
    decay: Decay,
    threshold: float,
    sigma: float,
    floor: float,
    size: int,
) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """Soft suppression inside each group (class) of each image: the best is taken, its rivals' scores are lowered.

    Args:
        scores: not below 0.
        threshold: IoU above which linear decay begins; Gaussian decay has none.
        sigma: of Gaussian decay.
        floor: what scores so little, or less, from the beginning or after being lowered, is dropped.

    Returns:
        Rows of the ``size`` best by falling lowered score (0 where there are fewer), these scores, and which are real.
    """
    options = decay, threshold, sigma, floor, size
    rows, final = _soft_suppress(boxes.detach(), scores.detach(), groups, valid, *options)
    return rows, final, final > 0
