"""Sample level (paper 3.1): the negatives and positives that each sampler draws from the candidates of a stage."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from libradet.analysis.candidates import Candidates, Stage
from libradet.analysis.levels.feature import SIZE_LIMITS, SIZES
from libradet.analysis.uncertainty import estimate, estimate_gap
from libradet.balance import ohem_priority, select
from libradet.geometry.indexing import gather_rows
from libradet.geometry.matching import NEGATIVE
from libradet.models.config import SamplingConfig
from libradet.models.sampling import SampledIndices, max_positives, sample

IOU_BIN = 0.05
"""Width of the IoU bins, and the IoU above which the paper counts negatives as overlapping."""

HARD_FRACTION = 0.05
"""Hard negatives: this share of an image's negatives, those with the largest loss, but no more than are sampled."""

MAX_POSITIVES = 16
"""Ground truths with this many positives or more share the last bin of the histogram."""

_BALANCED = {
    f"iou_balanced_{bins}_{k}": {"negatives": "iou_balanced", "num_bins": k, "bins": bins}
    for bins in ("paper", "mmdet")
    for k in (2, 3, 5)
}
NEGATIVE_SAMPLERS: dict[str, dict[str, Any]] = (
    {"random": {"negatives": "random"}} | _BALANCED | {"ohem": {"negatives": "ohem"}}
)
"""Samplers of negatives by name, as changes to a :class:`SamplingConfig`."""

_PURE: dict[str, Any] = {
    "random_fraction": 0.0,
    "random_schedule": "constant",
    "floor_fraction": 0.0,
    "background_sampling": "random",
    "floor_thr": 0.0,
    "reweight_exponent": 0.0,
}
"""Changes to a configuration after which its IoU-balanced sampler is that of the paper."""

POSITIVE_SAMPLERS: dict[str, dict[str, Any]] = {
    kind: {"positives": kind} for kind in ("random", "instance_balanced", "ohem")
}


def sample_candidates(stage: Stage, candidates: Candidates, num_gt: int, seed: int, **changes: Any) -> SampledIndices:
    """Sample the candidates of a stage with ``changes`` to its sampling configuration; deterministic for a seed.

    An IoU-balanced sampler is that of the paper, whatever share of the negatives the stage draws at random.
    """
    return _sample(stage, replace(stage.sampling, **(_PURE | changes)), candidates, num_gt, seed)


def sample_as_trained(stage: Stage, candidates: Candidates, num_gt: int, seed: int) -> SampledIndices:
    """Sample the candidates of a stage as at the end of its training; deterministic for a seed."""
    if candidates.class_loss is not None:
        candidates = candidates._replace(loss=candidates.class_loss)
    return _sample(stage, replace(stage.sampling, random_schedule="constant"), candidates, num_gt, seed)


def _sample(stage: Stage, config: SamplingConfig, candidates: Candidates, num_gt: int, seed: int) -> SampledIndices:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return sample(candidates.matches, num_gt, config, stage.max_iou, candidates.loss, candidates.scores)


def iou_histogram(
    iou: Float[Tensor, "B N"], weight: Float[Tensor, "B N"] | Bool[Tensor, "B N"], bins: int
) -> Float[Tensor, "B K"]:
    """Sum weights in bins (k * IOU_BIN, (k + 1) * IOU_BIN]; the first includes IoU 0, the last everything above."""
    # In the precision of IoUs, so that an IoU of 0.05 equals its edge.
    edges = (torch.arange(1, bins, dtype=torch.float64) * IOU_BIN).float()
    which = torch.bucketize(iou.float(), edges)
    return torch.zeros(len(iou), bins, dtype=torch.float64).scatter_add(1, which, weight.double())


def count_per_object(gt: Int[Tensor, "B N"], chosen: Bool[Tensor, "B N"], num_gt: int) -> Int[Tensor, "B G"]:
    """Return the number of chosen candidates that are matched to each ground truth."""
    return torch.zeros(len(gt), num_gt, dtype=torch.int64).scatter_add(1, gt.clamp(min=0), chosen.long())


class IoUHistogram(NamedTuple):
    """Histograms of IoU, one row for each image."""

    counts: Float[ndarray, "B K"]

    @property
    def above_threshold(self) -> tuple[ndarray, ndarray]:
        """Counts above IoU 0.05 and in total, for each image."""
        return self.counts[:, 1:].sum(1), self.counts.sum(1)


class SampleStatistics:
    """Statistics of what each sampler draws for one stage, accumulated over batches.

    Sampling runs on the CPU, so that the samples are the same on every device.
    """

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage, self.seed = stage, seed
        self.bins = max(2, round(stage.max_iou / IOU_BIN))
        self._negatives: dict[str, list[Tensor]] = {}
        self._positives: dict[str, list[Tensor]] = {}
        self._positive_ious: list[Tensor] = []
        self._below_middle: list[Tensor] = []
        self._areas: list[Tensor] = []
        self._has_choice: list[Tensor] = []

    def update(
        self, candidates: Candidates, objects: Bool[Tensor, "B G"], areas: Float[Tensor, "B G"], seed: int
    ) -> None:
        """Add a batch.

        Args:
            objects: mask of the ground truths that are to be detected.
            areas: areas of the ground truths in pixels of the original image.
            seed: seed of this batch.
        """
        num_gt, matches = objects.shape[1], candidates.matches
        negatives, positives = matches.gt == NEGATIVE, matches.gt >= 0
        self._append("all", iou_histogram(matches.iou, negatives, self.bins))
        self._append("loss_weighted", iou_histogram(matches.iou, candidates.loss.where(negatives, 0), self.bins))
        num_sampled = torch.zeros(len(objects), dtype=torch.int64)
        for name, changes in NEGATIVE_SAMPLERS.items():
            chosen = sample_candidates(self.stage, candidates, num_gt, seed, positives="random", **changes)
            sampled = chosen.valid & ~chosen.positive
            if name == "random":
                num_sampled = sampled.sum(1)
            self._append(name, iou_histogram(gather_rows(matches.iou, chosen.index), sampled, self.bins))
        self._append("hard", self._hard_negatives(candidates, negatives, num_sampled))
        own = sample_as_trained(self.stage, candidates, num_gt, seed)
        self._append("own", iou_histogram(gather_rows(matches.iou, own.index), own.valid & ~own.positive, self.bins))
        chosen, iou = own.valid & own.positive, gather_rows(matches.iou, own.index)
        self._positive_ious.append(iou_histogram(iou, chosen, round(1 / IOU_BIN)))
        self._below_middle.append((chosen & (iou <= self._middle)).sum(1))
        self._count_positives(candidates, positives, objects, areas, seed)

    def _hard_negatives(self, candidates: Candidates, negatives: Tensor, sampled: Tensor) -> Tensor:
        number = torch.minimum((negatives.sum(1) * HARD_FRACTION).ceil().long(), sampled)
        index, valid = select(
            ohem_priority(negatives, candidates.loss), number, self.stage.sampling.batch_size_per_image
        )
        return iou_histogram(gather_rows(candidates.matches.iou, index), valid, self.bins)

    def _count_positives(
        self, candidates: Candidates, positives: Tensor, objects: Tensor, areas: Tensor, seed: int
    ) -> None:
        num_gt, gt = objects.shape[1], candidates.matches.gt
        self._positives.setdefault("available", []).append(count_per_object(gt, positives, num_gt)[objects])
        for name, changes in POSITIVE_SAMPLERS.items() if self.stage.uses_sampling else ():
            chosen = sample_candidates(self.stage, candidates, num_gt, seed, negatives="random", **changes)
            counted = count_per_object(gather_rows(gt, chosen.index), chosen.valid & chosen.positive, num_gt)
            self._positives.setdefault(name, []).append(counted[objects])
        slots = max_positives(self.stage.sampling)
        self._has_choice.append(positives.sum(1) > slots)
        self._areas.append(areas[objects])

    @property
    def _middle(self) -> float:
        """Middle of the IoUs from the threshold of positives to 1."""
        return (self.stage.min_positive_iou + 1) / 2

    def _append(self, name: str, counts: Tensor) -> None:
        self._negatives.setdefault(name, []).append(counts)

    def compute(self) -> dict[str, Any]:
        """Return the numbers for the report."""
        rows = {name: IoUHistogram(torch.cat(parts).numpy()) for name, parts in self._negatives.items()}
        edges = [round(k * IOU_BIN, 2) for k in range(self.bins)] + [round(self.stage.max_iou, 2)]
        return {
            "stage": self.stage.key,
            "candidates": self.stage.candidates,
            "uses_sampling": self.stage.uses_sampling,
            "slots": self.stage.sampling.batch_size_per_image,
            "own_negatives": _sampler_name(self.stage.sampling) if self.stage.uses_sampling else "all",
            "own_positives": self.stage.sampling.positives if self.stage.uses_sampling else "all",
            "edges": edges,
            "negatives": {name: _summary(row, self.seed) for name, row in rows.items()},
            "gap": estimate_gap(rows["hard"].above_threshold, rows["random"].above_threshold, self.seed),
            "gap_own": estimate_gap(rows["own"].above_threshold, rows["random"].above_threshold, self.seed),
            "positives": self._compute_positives(),
            "positive_ious": self._compute_positive_ious(),
        }

    def _compute_positives(self) -> dict[str, Any]:
        areas = torch.cat(self._areas).numpy()
        counts = {name: torch.cat(parts).numpy() for name, parts in self._positives.items()}
        return {
            "objects": len(areas),
            "images_with_choice": float(torch.cat(self._has_choice).double().mean()),
            "by_sampler": {name: summarize_positives(values, areas) for name, values in counts.items()},
        }

    def _compute_positive_ious(self) -> dict[str, Any]:
        """Return how the IoUs of the stage's own positives are distributed: shares by bin, and below the middle.

        If IoUs were uniform, half would be below.
        """
        counts, below = torch.cat(self._positive_ious).numpy(), torch.cat(self._below_middle).numpy()
        total = counts.sum()
        return {
            "count": float(total),
            "edges": [round(k * IOU_BIN, 2) for k in range(counts.shape[1] + 1)],
            "shares": (counts.sum(0) / total).tolist() if total else [0.0] * counts.shape[1],
            "middle": self._middle,
            "below": estimate(below, counts.sum(1), self.seed),
            "generated_boxes": self.stage.generated_boxes,
        }


def _sampler_name(config: SamplingConfig) -> str:
    return f"iou_balanced_{config.bins}_{config.num_bins}" if config.negatives == "iou_balanced" else config.negatives


def _summary(row: IoUHistogram, seed: int) -> dict[str, Any]:
    total = row.counts.sum()
    shares = (row.counts.sum(0) / total).tolist() if total else [0.0] * row.counts.shape[1]
    return {"count": float(total), "shares": shares, "above_threshold": estimate(*row.above_threshold, seed)}


def summarize_positives(counts: Int[ndarray, " G"], areas: Float[ndarray, " G"]) -> dict[str, Any]:
    """Summarize how evenly positives are distributed over ground truths.

    Returns:
        ``total``, ``mean`` and ``median``; ``without``: share of ground truths without a positive; ``top_tenth``: share
        of all positives that belong to the tenth of the ground truths with the most (0.1 if all have the same);
        ``small``, ``medium``, ``large``: mean of ground truths of that size (COCO's), None if there are none;
        ``histogram``: share of ground truths with 0, 1, 2, ... positives, the last for ``MAX_POSITIVES`` or more.
    """
    if not len(counts):
        empty = dict.fromkeys(("mean", "median", "without", "top_tenth", *SIZES))
        return empty | {"total": 0, "histogram": [0.0] * (MAX_POSITIVES + 1)}
    total = int(counts.sum())
    kinds = np.digitize(areas, SIZE_LIMITS)
    by_size = [float(counts[kinds == kind].mean()) if (kinds == kind).any() else None for kind in range(len(SIZES))]
    return {
        "total": total,
        "mean": float(counts.mean()),
        "median": float(np.median(counts)),
        "without": float((counts == 0).mean()),
        "top_tenth": top_share(counts, 0.1) if total else None,
        **dict(zip(SIZES, by_size, strict=True)),
        "histogram": (np.bincount(counts.clip(max=MAX_POSITIVES), minlength=MAX_POSITIVES + 1) / len(counts)).tolist(),
    }


def top_share(counts: Int[ndarray, " G"], part: float) -> float:
    """Return the share of the sum in the largest ``part`` of the counts; the last of them may count in part."""
    ordered = np.sort(counts)[::-1]
    whole, rest = divmod(round(part * len(ordered), 9), 1)
    top = ordered[: int(whole)].sum() + (rest * ordered[int(whole)] if rest else 0)
    return float(top / ordered.sum())
