"""Gathering of rows and top-k selection, per image of a batch."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

TopKBy = Literal["logits", "scores"]
"""Sort key of a top-k selection. In float32, many high logits share one score, and all logits above 17 have a score of
1: with ``scores``, as in mmdetection, the first of equal candidates comes first."""


def gather_rows(values: Tensor, index: Int[Tensor, "B S"]) -> Tensor:
    """Return the rows of ``values`` [B, N] or [B, N, X] at ``index``, per image; negative indices select row 0."""
    index = index.clamp(min=0)
    if values.dim() == 3:
        return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))
    return values.gather(1, index)


def topk_rows(logits: Float[Tensor, "B N"], k: int, by: TopKBy) -> Int[Tensor, "B K"]:
    """Return the rows of the (at most) ``k`` best candidates, best first."""
    k = min(k, logits.shape[1])
    if by == "logits":
        return logits.topk(k, dim=1).indices
    scores = logits.sigmoid()
    if not torch.compiler.is_exporting():
        # topk does not define the order of equal values. This factor breaks ties in favor of the lower row, and lowers
        # each score by less than its distance to the next float32 value.
        tie_break = 1 - torch.arange(scores.shape[1], dtype=torch.float64, device=scores.device) * 2**-52
        scores = scores * tie_break
    return scores.topk(k, dim=1).indices


def topk_per_level(
    logits: Float[Tensor, "B N"], level_sizes: Sequence[int], k: int, by: TopKBy
) -> list[Int[Tensor, "B _"]]:
    """Return, for each pyramid level, the rows of its (at most) ``k`` best candidates, best first.

    Args:
        logits: of all levels, concatenated.
        level_sizes: number of candidates of each level.
    """
    rows, start = [], 0
    for size in level_sizes:
        rows.append(topk_rows(logits[:, start : start + size], k, by) + start)
        start += size
    return rows


def sort_key(logits: Float[Tensor, "*N"], by: TopKBy) -> Float[Tensor, "*N"]:
    """Return the values by which NMS sorts: ``logits`` themselves, or their scores."""
    return logits if by == "logits" else logits.sigmoid()
