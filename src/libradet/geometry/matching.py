"""Which ground truth a candidate stands for."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libradet.geometry.boxes import pairwise_coverage, pairwise_iou

NEGATIVE = -1
IGNORED = -2


class Matches(NamedTuple):
    """Attributes:
    gt: row of the ground truth matched, or ``NEGATIVE``, or ``IGNORED``.
    iou: largest IoU with any ground truth, 0 if there is none.
    """

    gt: Int[Tensor, "B N"]
    iou: Float[Tensor, "B N"]


def match(
    candidates: Float[Tensor, "B N 4"],
    gt_boxes: Float[Tensor, "B G 4"],
    gt_valid: Bool[Tensor, "B G"],
    *,
    positive: float,
    negative: float,
    low_quality: bool = False,
    min_positive: float = 0.0,
) -> Matches:
    """Assign each candidate the ground truth of largest IoU.

    IoU >= ``positive`` makes a positive, IoU < ``negative`` a negative; those between are ignored. With
    ``low_quality``, each ground truth also claims all candidates that tie for its own largest IoU, if that
    is at least ``min_positive`` (and above 0); a candidate claimed twice goes to the last (Faster R-CNN,
    section 3.1.2).
    """
    iou = pairwise_iou(candidates, gt_boxes).masked_fill(~gt_valid[:, None, :], 0)
    best, gt = iou.max(dim=2)
    matches = torch.where(best >= positive, gt, torch.where(best < negative, NEGATIVE, IGNORED))
    if low_quality:
        gt_best = iou.amax(dim=1, keepdim=True)
        claims = (iou == gt_best) & (gt_best >= max(min_positive, 1e-6))
        rows = torch.arange(gt_boxes.shape[1], device=iou.device)
        claimed = torch.where(claims, rows, NEGATIVE).amax(dim=2)
        matches = torch.where(claimed >= 0, claimed, matches)
    return Matches(matches, best)


def ignore_in_crowd(
    matches: Matches,
    candidates: Float[Tensor, "B N 4"],
    gt_boxes: Float[Tensor, "B G 4"],
    crowd: Bool[Tensor, "B G"],
    coverage: float = 0.5,
) -> Matches:
    """Ignore negatives that lie in a crowd region by more than ``coverage`` of their area."""
    inside = pairwise_coverage(candidates, gt_boxes).masked_fill(~crowd[:, None, :], 0).amax(dim=2)
    gt = torch.where((matches.gt == NEGATIVE) & (inside > coverage), IGNORED, matches.gt)
    return Matches(gt, matches.iou)
