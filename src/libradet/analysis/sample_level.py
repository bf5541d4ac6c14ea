"""Sample level (paper 3.1): which negatives and positives a stage's losses would see under each sampler."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from libradet.analysis.candidates import Candidates, Stage
from libradet.analysis.uncertainty import estimate, estimate_gap
from libradet.balance import hardest_priority, select
from libradet.geometry.matching import NEGATIVE
from libradet.models.config import SamplingConfig
from libradet.models.samples import Samples, num_positive_slots, sample, take

BIN = 0.05
"""Width of the bins of IoU, and the IoU from which the paper counts."""

HARD = 0.05
"""Hard negatives are this share of an image's negatives, those of largest loss, but no more than are sampled."""

MOST = 16
"""Positives of one ground truth from which on they are counted together."""

_BALANCED = {
    f"iou_balanced_{bins}_{k}": {"negatives": "iou_balanced", "num_bins": k, "bins": bins}
    for bins in ("paper", "mmdet")
    for k in (2, 3, 5)
}
NEGATIVES: dict[str, dict[str, Any]] = (
    {"random": {"negatives": "random"}} | _BALANCED | {"hardest": {"negatives": "hardest"}}
)
"""Samplers of negatives by name, as changes to a :class:`SamplingConfig`."""

POSITIVES: dict[str, dict[str, Any]] = {
    kind: {"positives": kind} for kind in ("random", "instance_balanced", "hardest")
}


def draw(stage: Stage, candidates: Candidates, num_gt: int, seed: int, **changes: Any) -> Samples:
    """What the stage would choose with its sampling changed; the same again for the same seed."""
    config = replace(stage.sampling, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return sample(candidates.matches, num_gt, config, stage.max_iou, candidates.loss)


def histogram(
    iou: Float[Tensor, "B N"], weight: Float[Tensor, "B N"] | Bool[Tensor, "B N"], bins: int
) -> Float[Tensor, "B K"]:
    """Weight in (k * BIN, (k + 1) * BIN] for each k; the first bin also holds IoU = 0, the last one all above."""
    # In the precision of IoUs, so that 0.05 is 0.05.
    edges = (torch.arange(1, bins, dtype=torch.float64) * BIN).float()
    which = torch.bucketize(iou.float(), edges)
    return torch.zeros(len(iou), bins, dtype=torch.float64).scatter_add(1, which, weight.double())


def per_object(gt: Int[Tensor, "B N"], chosen: Bool[Tensor, "B N"], num_gt: int) -> Int[Tensor, "B G"]:
    """How many of the chosen stand for each ground truth."""
    return torch.zeros(len(gt), num_gt, dtype=torch.int64).scatter_add(1, gt.clamp(min=0), chosen.long())


class Row(NamedTuple):
    """Images behind a histogram: one line of bins for each."""

    name: str
    images: Float[ndarray, "P K"]

    @property
    def above(self) -> tuple[ndarray, ndarray]:
        """For each image what lies above IoU 0.05, and all there is."""
        return self.images[:, 1:].sum(1), self.images.sum(1)


class SampleTally:
    """Collects, batch by batch, what the samplers choose for one stage.

    Everything happens on the CPU, so that the choice is the same on every device.
    """

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage, self.seed = stage, seed
        self.bins = max(2, round(stage.max_iou / BIN))
        self._negatives: dict[str, list[Tensor]] = {}
        self._positives: dict[str, list[Tensor]] = {}
        self._areas: list[Tensor] = []
        self._full: list[Tensor] = []

    def update(
        self, candidates: Candidates, objects: Bool[Tensor, "B G"], areas: Float[Tensor, "B G"], seed: int
    ) -> None:
        """Take in a batch.

        Args:
            objects: which ground truths there are to be found.
            areas: of the ground truths, pixels of the file.
            seed: of this batch.
        """
        num_gt, matches = objects.shape[1], candidates.matches
        negatives, positives = matches.gt == NEGATIVE, matches.gt >= 0
        self._keep("all", histogram(matches.iou, negatives, self.bins))
        self._keep("by_loss", histogram(matches.iou, candidates.loss.where(negatives, 0), self.bins))
        number = torch.zeros(len(objects), dtype=torch.int64)
        for name, changes in NEGATIVES.items():
            chosen = draw(self.stage, candidates, num_gt, seed, positives="random", **changes)
            taken = chosen.valid & ~chosen.positive
            number = taken.sum(1) if name == "random" else number
            self._keep(name, histogram(take(matches.iou, chosen.index), taken, self.bins))
        self._keep("hard", self._hard(candidates, negatives, number))
        own = draw(self.stage, candidates, num_gt, seed)
        self._keep("own", histogram(take(matches.iou, own.index), own.valid & ~own.positive, self.bins))
        self._count_positives(candidates, positives, objects, areas, seed)

    def _hard(self, candidates: Candidates, negatives: Tensor, sampled: Tensor) -> Tensor:
        number = torch.minimum((negatives.sum(1) * HARD).ceil().long(), sampled)
        index, valid = select(hardest_priority(negatives, candidates.loss), number, self.stage.sampling.size)
        return histogram(take(candidates.matches.iou, index), valid, self.bins)

    def _count_positives(
        self, candidates: Candidates, positives: Tensor, objects: Tensor, areas: Tensor, seed: int
    ) -> None:
        num_gt, gt = objects.shape[1], candidates.matches.gt
        self._positives.setdefault("available", []).append(per_object(gt, positives, num_gt)[objects])
        for name, changes in POSITIVES.items() if self.stage.samples else ():
            chosen = draw(self.stage, candidates, num_gt, seed, negatives="random", **changes)
            counted = per_object(take(gt, chosen.index), chosen.valid & chosen.positive, num_gt)
            self._positives.setdefault(name, []).append(counted[objects])
        slots = num_positive_slots(self.stage.sampling)
        self._full.append(positives.sum(1) > slots)
        self._areas.append(areas[objects])

    def _keep(self, name: str, counts: Tensor) -> None:
        self._negatives.setdefault(name, []).append(counts)

    def result(self) -> dict[str, Any]:
        """Numbers for the report."""
        rows = {name: Row(name, torch.cat(parts).numpy()) for name, parts in self._negatives.items()}
        edges = [round(k * BIN, 2) for k in range(self.bins)] + [round(self.stage.max_iou, 2)]
        return {
            "stage": self.stage.key,
            "candidates": self.stage.candidates,
            "samples": self.stage.samples,
            "slots": self.stage.sampling.size,
            "own_negatives": _name(self.stage.sampling) if self.stage.samples else "all",
            "own_positives": self.stage.sampling.positives if self.stage.samples else "all",
            "edges": edges,
            "negatives": {name: _summary(row, self.seed) for name, row in rows.items()},
            "gap": estimate_gap(rows["hard"].above, rows["random"].above, self.seed),
            "gap_own": estimate_gap(rows["own"].above, rows["random"].above, self.seed),
            "positives": self._positive_result(),
        }

    def _positive_result(self) -> dict[str, Any]:
        areas = torch.cat(self._areas).numpy()
        counts = {name: torch.cat(parts).numpy() for name, parts in self._positives.items()}
        return {
            "objects": len(areas),
            "images_with_choice": float(torch.cat(self._full).double().mean()),
            "by_sampler": {name: spread(values, areas) for name, values in counts.items()},
        }


def _name(config: SamplingConfig) -> str:
    return f"iou_balanced_{config.bins}_{config.num_bins}" if config.negatives == "iou_balanced" else config.negatives


def _summary(row: Row, seed: int) -> dict[str, Any]:
    whole = row.images.sum()
    shares = (row.images.sum(0) / whole).tolist() if whole else [0.0] * row.images.shape[1]
    return {"count": float(whole), "shares": shares, "above": estimate(*row.above, seed)}


def spread(counts: Int[ndarray, " G"], areas: Float[ndarray, " G"]) -> dict[str, Any]:
    """How evenly positives are spread over ground truths.

    Returns:
        ``total``, ``mean`` and ``median``; ``without``: share of ground truths that have none; ``top_tenth``:
        share of all positives that go to the tenth of the ground truths that has most (0.1 if all have alike);
        ``small``, ``medium``, ``large``: mean of ground truths of that size (COCO's), None where there are none;
        ``histogram``: share of ground truths with 0, 1, 2, ... positives, the last for ``MOST`` or more.
    """
    if not len(counts):
        empty = dict.fromkeys(("mean", "median", "without", "top_tenth", "small", "medium", "large"))
        return empty | {"total": 0, "histogram": [0.0] * (MOST + 1)}
    total = int(counts.sum())
    kinds = np.digitize(areas, [32**2, 96**2])
    by_size = [float(counts[kinds == kind].mean()) if (kinds == kind).any() else None for kind in range(3)]
    return {
        "total": total,
        "mean": float(counts.mean()),
        "median": float(np.median(counts)),
        "without": float((counts == 0).mean()),
        "top_tenth": top_share(counts, 0.1) if total else None,
        **dict(zip(("small", "medium", "large"), by_size, strict=True)),
        "histogram": (np.bincount(counts.clip(max=MOST), minlength=MOST + 1) / len(counts)).tolist(),
    }


def top_share(counts: Int[ndarray, " G"], part: float) -> float:
    """Share of the sum that the largest ``part`` of the numbers has; one of them is counted in parts if need be."""
    ordered = np.sort(counts)[::-1]
    whole, rest = divmod(round(part * len(ordered), 9), 1)
    top = ordered[: int(whole)].sum() + (rest * ordered[int(whole)] if rest else 0)
    return float(top / ordered.sum())
