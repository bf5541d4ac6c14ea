"""Samplers, matching and suppression alone, in turns with others' on the same candidates."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.ops import batched_nms, box_iou

from benchmarks.set_sampler import sample_by_sets
from libradet.balance import iou_balanced_priority, random_priority, select
from libradet.geometry.anchors import base_anchors, grid_anchors
from libradet.geometry.matching import NEGATIVE, Matches, match
from libradet.geometry.suppression import suppress

Work = Callable[[], Any]
IMAGES, OBJECTS, BINS = 2, 20, 3


class Candidates(NamedTuple):
    """Attributes:
    boxes: of each image [2, N, 4].
    count: how many are sampled of an image.
    limits: IoU from which they are positives, and below which negatives.
    """

    boxes: Tensor
    gt: Tensor
    count: int
    limits: tuple[float, float]

    def match(self) -> Matches:
        """As the first stage does."""
        valid = torch.ones(self.gt.shape[:2], dtype=torch.bool)
        positive, negative = self.limits
        return match(self.boxes, self.gt, valid, positive=positive, negative=negative, low_quality=True)


def measure_operations(rounds: int, quick: bool = False) -> list[dict[str, Any]]:
    """Rows: ``name``, ``seconds`` by who did it (a number for each round), and whether ``same`` came out."""
    anchors = _anchors(quick)
    rows = []
    for candidates in (_proposals(), anchors):
        rows.append(_samplers(candidates, rounds))
    return [*rows, _matching(anchors, rounds), _proposal_suppression(rounds), _class_suppression(rounds)]


def _turns(works: dict[str, Work], rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    results = {name: work() for name, work in works.items()}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return seconds, results


def _objects(width: float, height: float, g: torch.Generator) -> Tensor:
    sides = torch.tensor([width, height])
    extent = sides * (0.03 + 0.4 * torch.rand(IMAGES, OBJECTS, 2, generator=g))
    corner = (sides - extent) * torch.rand(IMAGES, OBJECTS, 2, generator=g)
    return torch.cat([corner, corner + extent], -1)


def _anchors(quick: bool) -> Candidates:
    """All 268,569 of an image of 800x1344."""
    height, width = (128, 192) if quick else (800, 1344)
    levels = []
    for stride in (4, 8, 16, 32, 64):
        base = base_anchors(stride, (8.0,), (0.5, 1.0, 2.0))
        levels.append(grid_anchors(base, -(-height // stride), -(-width // stride), stride))
    boxes = torch.cat(levels).expand(IMAGES, -1, -1).contiguous()
    return Candidates(boxes, _objects(width, height, torch.Generator().manual_seed(0)), 256, (0.7, 0.3))


def _proposals() -> Candidates:
    """2,000 boxes around the objects of an image, most of them not well."""
    g = torch.Generator().manual_seed(0)
    gt = _objects(1344, 800, g)
    boxes = gt.repeat(1, 2000 // OBJECTS, 1)
    side = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2)
    return Candidates(boxes + 0.5 * side * torch.randn(boxes.shape, generator=g), gt, 512, (0.5, 0.5))


def _samplers(candidates: Candidates, rounds: int) -> dict[str, Any]:
    matches, (_, upper), count = candidates.match(), candidates.limits, candidates.count
    negatives = matches.gt == NEGATIVE
    labels = list(torch.where(negatives, 0, -1).float())
    there, rng = BalancedPositiveNegativeSampler(count, 0.0), np.random.default_rng(0)

    def balanced() -> tuple[Tensor, Tensor]:
        return select(iou_balanced_priority(negatives, matches.iou, count, BINS, upper), count, count)

    def by_sets() -> list[np.ndarray]:
        pairs = zip(negatives.numpy(), matches.iou.numpy(), strict=True)
        return [sample_by_sets(n, iou, count, BINS, upper, rng) for n, iou in pairs]

    works: dict[str, Work] = {
        "ours, IoU-balanced": balanced,
        "ours, random": lambda: select(random_priority(negatives), count, count),
        "torchvision, random": lambda: there(labels),
        "sets, IoU-balanced": by_sets,
    }
    seconds, results = _turns(works, rounds)
    index, filled = results["ours, IoU-balanced"]
    own = [i[f].numpy() for i, f in zip(index, filled, strict=True)]
    same = all(
        _is_balanced(chosen, n.numpy(), iou.numpy(), count, upper)
        for taken in (own, results["sets, IoU-balanced"])
        for chosen, n, iou in zip(taken, negatives, matches.iou, strict=True)
    )
    number = candidates.boxes.shape[1]
    return {"name": f"{count} negatives from {IMAGES}×{number:,}", "seconds": seconds, "same": same}


def _is_balanced(chosen: np.ndarray, negatives: np.ndarray, iou: np.ndarray, count: int, upper: float) -> bool:
    """As many as asked for, nothing twice, negatives only, and of each bin its share or all that it has."""
    bins = np.minimum((iou * BINS / upper).astype(int), BINS - 1)
    has, took = (np.bincount(bins[rows], minlength=BINS) for rows in (np.flatnonzero(negatives), chosen))
    fair = (took >= np.minimum(has, count // BINS)).all()
    whole = len(chosen) == min(count, negatives.sum()) == len(np.unique(chosen))
    return bool(fair and whole and negatives[chosen].all())


def _matching(candidates: Candidates, rounds: int) -> dict[str, Any]:
    there = Matcher(*candidates.limits, allow_low_quality_matches=True)

    def theirs() -> list[Tensor]:
        return [there(box_iou(gt, boxes)) for gt, boxes in zip(candidates.gt, candidates.boxes, strict=True)]

    seconds, results = _turns({"ours": candidates.match, "torchvision": theirs}, rounds)
    # Which of two objects of equal IoU an anchor stands for is nobody's to say.
    same = torch.equal(results["ours"].gt.clamp(max=0), torch.stack(results["torchvision"]).clamp(max=0))
    number = candidates.boxes.shape[1]
    return {"name": f"matching {IMAGES}×{number:,} to {OBJECTS}", "seconds": seconds, "same": same}


def _strewn(number: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    corner = torch.rand(IMAGES, number, 2, generator=g) * torch.tensor([500.0, 340.0])
    extent = 20 + 120 * torch.rand(IMAGES, number, 2, generator=g)
    # No two alike: which of equals comes first is nobody's to say.
    order = [torch.randperm(number, generator=g) for _ in range(IMAGES)]
    scores = torch.stack(order).float() / number
    labels = torch.randint(0, groups, (IMAGES, number), generator=g)
    return torch.cat([corner, corner + extent], -1), scores, labels


def _suppression(name: str, inputs: tuple, valid: Tensor, threshold: float, size: int, rounds: int) -> dict[str, Any]:
    boxes, scores, groups = inputs

    def theirs() -> list[Tensor]:
        found = []
        for b, s, n, v in zip(boxes, scores, groups, valid, strict=True):
            rows = v.nonzero().squeeze(1)
            found.append(rows[batched_nms(b[rows], s[rows], n[rows], threshold)[:size]])
        return found

    works = {
        "ours": lambda: suppress(boxes, scores, groups, valid, threshold=threshold, size=size),
        "torchvision": theirs,
    }
    seconds, results = _turns(works, rounds)
    rows, filled = results["ours"]
    same = all(torch.equal(r[f], t) for r, f, t in zip(rows, filled, results["torchvision"], strict=True))
    return {"name": name, "seconds": seconds, "same": same}


def _proposal_suppression(rounds: int) -> dict[str, Any]:
    """As many as a first stage has at 800x1344: the best 1,000 of each level."""
    inputs = _strewn(4819, 5)
    valid = torch.ones_like(inputs[1], dtype=torch.bool)
    return _suppression(f"suppression of {IMAGES}×4,819 in 5 levels", inputs, valid, 0.7, 1000, rounds)


def _class_suppression(rounds: int) -> dict[str, Any]:
    """Pairs of 1,000 proposals and 80 classes, of which some hundreds pass the threshold."""
    boxes, scores, labels = _strewn(80_000, 80)
    valid = scores > 0.985
    name = f"suppression of {IMAGES}×{int(valid[0].sum()):,} of 80,000 in 80 classes"
    return _suppression(name, (boxes, scores, labels), valid, 0.5, 100, rounds)
