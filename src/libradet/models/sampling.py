"""Matching of candidates to ground truths, and sampling of those that enter the losses (paper 3.1)."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libradet.balance import (
    background_share_priority,
    bins_of_iou,
    instance_balanced_priority,
    iou_balanced_priority,
    ohem_priority,
    random_priority,
    select,
    stratification_weights,
)
from libradet.data.batch import Batch
from libradet.geometry.indexing import gather_rows
from libradet.geometry.matching import NEGATIVE, Matches, ignore_in_crowd, match
from libradet.models.config import MatchConfig, SamplingConfig


class SampledIndices(NamedTuple):
    """Fixed-size sample of candidates.

    Attributes:
        index: candidate in each slot, positives in the first slots.
        valid: whether the slot is filled.
        positive: whether the slot holds a positive.
        weight: of each sample in the classification loss; None where all are equal.
    """

    index: Int[Tensor, "B S"]
    valid: Bool[Tensor, "B S"]
    positive: Bool[Tensor, "B S"]
    weight: Float[Tensor, "B S"] | None = None


@torch.no_grad()
def match_to_gt(candidates: Float[Tensor, "B N 4"], batch: Batch, config: MatchConfig) -> Matches:
    """Match candidates to the ground truths of their image; negatives in a crowd region are ignored."""
    matches = match(
        candidates,
        batch.boxes,
        (batch.labels >= 0) & ~batch.crowd,
        fg_iou_thresh=config.fg_iou_thresh,
        bg_iou_thresh=config.bg_iou_thresh,
        allow_low_quality_matches=config.allow_low_quality_matches,
        min_pos_iou=config.min_pos_iou,
    )
    return ignore_in_crowd(matches, candidates, batch.boxes, batch.crowd, config.ignore_iof_thresh)


def max_positives(config: SamplingConfig) -> int:
    """Return the number of slots, the first ones, that may hold positives."""
    return int(config.batch_size_per_image * config.positive_fraction)


def build_progress(config: SamplingConfig) -> Tensor | None:
    """Return the buffer for the progress of a training, 0..1, that a head needs for a schedule; None without one."""
    return torch.zeros(()) if config.random_schedule != "constant" else None


def uses_ohem(config: SamplingConfig) -> bool:
    """Whether sampling needs the loss of every candidate."""
    return "ohem" in (config.positives, config.negatives)


def sample(
    matches: Matches,
    num_gt: int,
    config: SamplingConfig,
    max_iou: float,
    candidate_loss: Float[Tensor, "B N"] | None = None,
    score: Float[Tensor, "B N"] | None = None,
    progress: Float[Tensor, ""] | None = None,
) -> SampledIndices:
    """Sample positives up to their fraction, then negatives up to the full number.

    Args:
        num_gt: G, the (padded) number of ground truths.
        max_iou: the IoU below which candidates are negatives, upper end of the IoU bins.
        candidate_loss: loss of each candidate, needed for online hard example mining.
        score: objectness of each candidate, needed for ``background_sampling`` by score.
        progress: of the training, 0..1, needed for a ``random_schedule``.
    """
    positives, negatives = matches.gt >= 0, matches.gt == NEGATIVE
    slots = max_positives(config)
    if config.positives == "instance_balanced":
        priority = instance_balanced_priority(positives, matches.gt, num_gt)
    else:
        priority = _priority(positives, config.positives, candidate_loss)
    index, filled = select(priority, slots, slots)
    num_positive = filled.sum(1)
    num_negative = config.batch_size_per_image - num_positive
    if config.neg_pos_ub is not None:
        limit = (config.neg_pos_ub * num_positive.clamp(min=1)).long()
        num_negative = torch.minimum(num_negative, limit)
    if config.negatives == "iou_balanced":
        priority = _iou_balanced(negatives, matches.iou, num_negative, config, max_iou, score, progress)
    else:
        priority = _priority(negatives, config.negatives, candidate_loss)
    chosen = torch.zeros_like(matches.gt).scatter_add(1, index, filled.long()) > 0
    priority = priority.masked_fill(chosen, torch.inf)
    index, valid = select(priority, num_positive + num_negative, config.batch_size_per_image)
    positive = torch.arange(config.batch_size_per_image, device=index.device) < num_positive[:, None]
    samples = SampledIndices(index, valid, positive)
    if not config.reweight_exponent:
        return samples
    return samples._replace(weight=_sample_weights(samples, negatives, matches.iou, config, max_iou))


def _iou_balanced(
    negatives: Bool[Tensor, "B N"],
    iou: Float[Tensor, "B N"],
    count: Int[Tensor, " B"],
    config: SamplingConfig,
    max_iou: float,
    score: Float[Tensor, "B N"] | None,
    progress: Float[Tensor, ""] | None,
) -> Float[Tensor, "B N"]:
    """Return IoU-balanced priorities of which ``count`` are used, with a share for the background if so configured."""
    size = config.batch_size_per_image
    if config.floor_fraction:
        return background_share_priority(
            negatives,
            iou,
            count,
            size,
            config.floor_thr,
            config.floor_fraction,
            num_bins=config.num_bins,
            max_iou=max_iou,
            bins=config.bins,
            score=score if config.background_sampling == "score_balanced" else None,
        )
    if config.random_schedule == "linear":
        assert progress is not None, "a schedule needs the progress of the training"
        count = (count * (1 - config.random_fraction) * progress).long()
    elif config.random_fraction:
        # Slots behind those of the bins are filled at random from all other candidates.
        count = (count * (1 - config.random_fraction)).long()
    return iou_balanced_priority(
        negatives,
        iou,
        count,
        num_bins=config.num_bins,
        max_iou=max_iou,
        bins=config.bins,
        size=size,
        min_iou=config.floor_thr,
    )


def _sample_weights(
    samples: SampledIndices,
    negatives: Bool[Tensor, "B N"],
    iou: Float[Tensor, "B N"],
    config: SamplingConfig,
    max_iou: float,
) -> Float[Tensor, "B S"]:
    """Return the weight of each sample in the classification loss; that of positives is 1."""
    bins = bins_of_iou(iou, config.num_bins, max_iou).long()
    is_negative = samples.valid & ~samples.positive
    sample_bins = gather_rows(bins, samples.index)
    return stratification_weights(sample_bins, is_negative, bins, negatives, config.num_bins, config.reweight_exponent)


def _priority(candidates: Tensor, kind: str, candidate_loss: Tensor | None) -> Tensor:
    if kind == "ohem":
        assert candidate_loss is not None, "online hard example mining needs the loss of each candidate"
        return ohem_priority(candidates, candidate_loss)
    return random_priority(candidates)
