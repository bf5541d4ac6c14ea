"""Matching of candidate boxes to ground truths."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libradet.geometry.block_matching import BestIoU, best_iou
from libradet.geometry.boxes import pairwise_iof, pairwise_iou
from libradet.utils.eager import is_eager_on_cpu

NEGATIVE = -1
IGNORED = -2

MIN_FOR_BLOCKS = 4096
"""Number of candidates from which on, in eager mode on a CPU, matching skips pairs that are far apart."""


class Matches(NamedTuple):
    """Attributes:
    gt: row of the matched ground truth, or ``NEGATIVE``, or ``IGNORED``.
    iou: largest IoU with any ground truth, 0 if there is none.
    """

    gt: Int[Tensor, "B N"]
    iou: Float[Tensor, "B N"]


def match(
    candidates: Float[Tensor, "B N 4"],
    gt_boxes: Float[Tensor, "B G 4"],
    gt_valid: Bool[Tensor, "B G"],
    *,
    fg_iou_thresh: float,
    bg_iou_thresh: float,
    allow_low_quality_matches: bool = False,
    min_pos_iou: float = 0.0,
) -> Matches:
    """Assign to each candidate the ground truth of largest IoU.

    A candidate is positive if its IoU is at least ``fg_iou_thresh``, negative if it is below ``bg_iou_thresh``, and
    ignored otherwise. With ``allow_low_quality_matches``, each ground truth also matches all candidates that tie for
    its own largest IoU, if that is at least ``min_pos_iou`` (and above 0); a candidate that several ground truths match
    in this way is assigned to the last of them (Faster R-CNN, section 3.1.2).
    """
    min_claim = max(min_pos_iou, 1e-6) if allow_low_quality_matches else math.inf
    uses_blocks = is_eager_on_cpu(candidates) and candidates.shape[1] >= MIN_FOR_BLOCKS
    compute = best_iou if uses_blocks else _best_iou_of_matrix
    best, gt, claimed = compute(candidates, gt_boxes, gt_valid, fg_iou_thresh, min_claim)
    matches = torch.where(best >= fg_iou_thresh, gt, torch.where(best < bg_iou_thresh, NEGATIVE, IGNORED))
    return Matches(torch.where(claimed >= 0, claimed, matches), best)


def _best_iou_of_matrix(
    candidates: Tensor, gt_boxes: Tensor, gt_valid: Tensor, min_iou: float, min_claim: float
) -> BestIoU:
    """Return the same as :func:`best_iou`, from a matrix of all pairs: of fixed size, and few operations."""
    iou = pairwise_iou(candidates, gt_boxes).masked_fill(~gt_valid[:, None, :], 0)
    best, gt = iou.max(dim=2)
    gt_best = iou.amax(dim=1, keepdim=True)
    claims = (iou == gt_best) & (gt_best >= min_claim)
    rows = torch.arange(gt_boxes.shape[1], device=iou.device)
    return BestIoU(best, gt, torch.where(claims, rows, NEGATIVE).amax(dim=2))


def ignore_in_crowd(
    matches: Matches,
    candidates: Float[Tensor, "B N 4"],
    gt_boxes: Float[Tensor, "B G 4"],
    crowd: Bool[Tensor, "B G"],
    ignore_iof_thresh: float = 0.5,
) -> Matches:
    """Ignore negatives of whose area more than ``ignore_iof_thresh`` lies in one crowd region.

    Args:
        crowd: which ground truths are crowd regions.
    """
    compute = _crowd_iof_of_columns if is_eager_on_cpu(candidates) else _crowd_iof
    inside = compute(candidates, gt_boxes, crowd)
    gt = torch.where((matches.gt == NEGATIVE) & (inside > ignore_iof_thresh), IGNORED, matches.gt)
    return Matches(gt, matches.iou)


def _crowd_iof(candidates: Tensor, gt_boxes: Tensor, crowd: Tensor) -> Float[Tensor, "B N"]:
    """Return the largest share of each candidate that lies in one crowd region."""
    return pairwise_iof(candidates, gt_boxes).masked_fill(~crowd[:, None, :], 0).amax(dim=2)


# One operator: the sizes of its intermediate tensors depend on data.
@torch.library.custom_op("libradet::crowd_iof", mutates_args=())
def _crowd_iof_of_columns(candidates: Tensor, gt_boxes: Tensor, crowd: Tensor) -> Tensor:
    """Compute it for columns with a crowd region in any image: mostly none."""
    columns = crowd.any(0).nonzero().squeeze(1)
    if not len(columns):
        return candidates.new_zeros(candidates.shape[:2])
    return _crowd_iof(candidates, gt_boxes[:, columns], crowd[:, columns])
