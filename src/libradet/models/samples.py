"""From matches to the samples that a loss sees."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libradet.balance import (
    hardest_priority,
    instance_balanced_priority,
    iou_balanced_priority,
    random_priority,
    select,
)
from libradet.geometry.matching import NEGATIVE, Matches
from libradet.models.config import SamplingConfig


class Samples(NamedTuple):
    """Attributes:
    index: candidate in each slot, positives in the first slots.
    valid: whether the slot is filled.
    positive: whether it holds a positive.
    """

    index: Int[Tensor, "B S"]
    valid: Bool[Tensor, "B S"]
    positive: Bool[Tensor, "B S"]


def num_positive_slots(config: SamplingConfig) -> int:
    """How many slots, the first ones, may hold positives."""
    return int(config.size * config.positive_fraction)


def sample(
    matches: Matches,
    num_gt: int,
    config: SamplingConfig,
    max_iou: float,
    hardness: Float[Tensor, "B N"] | None = None,
) -> Samples:
    """Choose positives up to their fraction, then negatives up to the full number.

    Args:
        max_iou: the IoU below which candidates are negatives, upper end of the IoU bins.
        hardness: loss of each candidate, where ``config`` asks for the hardest.
    """
    positives, negatives = matches.gt >= 0, matches.gt == NEGATIVE
    slots = num_positive_slots(config)
    if config.positives == "instance_balanced":
        priority = instance_balanced_priority(positives, matches.gt, num_gt)
    else:
        priority = _plain_priority(positives, config.positives, hardness)
    index, filled = select(priority, slots, slots)
    num_positive = filled.sum(1)
    num_negative = config.size - num_positive
    if config.negatives_per_positive is not None:
        limit = (config.negatives_per_positive * num_positive.clamp(min=1)).long()
        num_negative = torch.minimum(num_negative, limit)
    if config.negatives == "iou_balanced":
        how = {"num_bins": config.num_bins, "max_iou": max_iou, "bins": config.bins, "size": config.size}
        priority = iou_balanced_priority(negatives, matches.iou, num_negative, **how)
    else:
        priority = _plain_priority(negatives, config.negatives, hardness)
    chosen = torch.zeros_like(matches.gt).scatter_add(1, index, filled.long()) > 0
    priority = priority.masked_fill(chosen, torch.inf)
    index, valid = select(priority, num_positive + num_negative, config.size)
    return Samples(index, valid, torch.arange(config.size, device=index.device) < num_positive[:, None])


def _plain_priority(candidates: Tensor, kind: str, hardness: Tensor | None) -> Tensor:
    if kind == "hardest":
        assert hardness is not None, "sampling the hardest needs the candidates' losses"
        return hardest_priority(candidates, hardness)
    return random_priority(candidates)


def take(values: Tensor, index: Int[Tensor, "B S"]) -> Tensor:
    """Rows of ``values`` [B, N] or [B, N, X] at ``index``, per image; negative indices give row 0."""
    index = index.clamp(min=0)
    if values.dim() == 3:
        return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))
    return values.gather(1, index)
