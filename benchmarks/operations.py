"""Samplers, matching and NMS alone, in turns with torchvision's on the same candidates."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.ops import batched_nms as torchvision_batched_nms
from torchvision.ops import box_iou

from benchmarks.python_set_sampler import sample_by_sets
from libradet.balance import iou_balanced_priority, random_priority, select
from libradet.geometry.anchors import base_anchors, grid_anchors
from libradet.geometry.matching import NEGATIVE, Matches, match
from libradet.geometry.nms import batched_nms

Function = Callable[[], Any]
IMAGES, OBJECTS, BINS = 2, 20, 3


class Candidates(NamedTuple):
    """Candidate boxes and objects of a batch of images.

    Attributes:
        boxes: [2, N, 4].
        gt: objects [2, G, 4].
        count: number of samples per image.
        thresholds: IoU from which a candidate is positive, and below which it is negative.
        canvas: width and height of the images.
    """

    boxes: Tensor
    gt: Tensor
    count: int
    thresholds: tuple[float, float]
    canvas: tuple[int, int]

    def match(self) -> Matches:
        """Match candidates as the RPN does."""
        valid = torch.ones(self.gt.shape[:2], dtype=torch.bool)
        positive, negative = self.thresholds
        return match(
            self.boxes,
            self.gt,
            valid,
            fg_iou_thresh=positive,
            bg_iou_thresh=negative,
            allow_low_quality_matches=True,
        )


def measure_operations(rounds: int, quick: bool = False) -> list[dict[str, Any]]:
    """Measure all operations.

    Returns:
        per operation ``name``, ``seconds`` by implementation (one value per round), and whether results are the
        ``same``.
    """
    anchors = _anchors(quick)
    return [
        _samplers(_proposals(), rounds),
        _samplers(anchors, rounds),
        _matching(anchors, rounds),
        _proposal_nms(rounds),
        _class_nms(rounds),
    ]


def _time_in_turns(functions: dict[str, Function], rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    results = {name: function() for name, function in functions.items()}
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds, results


def _objects(width: float, height: float, g: torch.Generator, number: int = OBJECTS) -> Tensor:
    sides = torch.tensor([width, height])
    extent = sides * (0.03 + 0.4 * torch.rand(IMAGES, number, 2, generator=g))
    corner = (sides - extent) * torch.rand(IMAGES, number, 2, generator=g)
    return torch.cat([corner, corner + extent], -1)


def _anchors(quick: bool) -> Candidates:
    """Return all 268,569 anchors of an image of 800x1344."""
    height, width = (128, 192) if quick else (800, 1344)
    levels = []
    for stride in (4, 8, 16, 32, 64):
        base = base_anchors(stride, (8.0,), (0.5, 1.0, 2.0))
        levels.append(grid_anchors(base, -(-height // stride), -(-width // stride), stride))
    boxes = torch.cat(levels).expand(IMAGES, -1, -1).contiguous()
    return Candidates(
        boxes, _objects(width, height, torch.Generator().manual_seed(0)), 256, (0.7, 0.3), (width, height)
    )


def _proposals() -> Candidates:
    """Return 2,000 boxes per image around its objects, most of them inaccurate."""
    g = torch.Generator().manual_seed(0)
    gt = _objects(1344, 800, g)
    boxes = gt.repeat(1, 2000 // OBJECTS, 1)
    side = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2)
    return Candidates(boxes + 0.5 * side * torch.randn(boxes.shape, generator=g), gt, 512, (0.5, 0.5), (1344, 800))


def _samplers(candidates: Candidates, rounds: int) -> dict[str, Any]:
    matches, (_, upper), count = candidates.match(), candidates.thresholds, candidates.count
    negatives = matches.gt == NEGATIVE
    labels = list(torch.where(negatives, 0, -1).float())
    torchvision_sampler, rng = BalancedPositiveNegativeSampler(count, 0.0), np.random.default_rng(0)

    def balanced() -> tuple[Tensor, Tensor]:
        return select(iou_balanced_priority(negatives, matches.iou, count, BINS, upper), count, count)

    def by_sets() -> list[np.ndarray]:
        pairs = zip(negatives.numpy(), matches.iou.numpy(), strict=True)
        return [sample_by_sets(n, iou, count, BINS, upper, rng) for n, iou in pairs]

    functions: dict[str, Function] = {
        "ours, IoU-balanced": balanced,
        "ours, random": lambda: select(random_priority(negatives), count, count),
        "torchvision, random": lambda: torchvision_sampler(labels),
        "sets, IoU-balanced": by_sets,
    }
    seconds, results = _time_in_turns(functions, rounds)
    index, filled = results["ours, IoU-balanced"]
    ours = [i[f].numpy() for i, f in zip(index, filled, strict=True)]
    same = all(
        _is_balanced(chosen, n.numpy(), iou.numpy(), count, upper)
        for images in (ours, results["sets, IoU-balanced"])
        for chosen, n, iou in zip(images, negatives, matches.iou, strict=True)
    )
    number = candidates.boxes.shape[1]
    return {"name": f"{count} negatives from {IMAGES}x{number:,}", "seconds": seconds, "same": same}


def _is_balanced(chosen: np.ndarray, negatives: np.ndarray, iou: np.ndarray, count: int, upper: float) -> bool:
    """Return whether ``count`` distinct negatives are chosen, and of each bin its share or all that it has."""
    bins = np.minimum((iou * BINS / upper).astype(int), BINS - 1)
    available, taken = (np.bincount(bins[rows], minlength=BINS) for rows in (np.flatnonzero(negatives), chosen))
    balanced = (taken >= np.minimum(available, count // BINS)).all()
    complete = len(chosen) == min(count, negatives.sum()) == len(np.unique(chosen))
    return bool(balanced and complete and negatives[chosen].all())


def _matching(candidates: Candidates, rounds: int) -> dict[str, Any]:
    """Measure matching to 20 objects, and to ten times as many."""
    many = candidates._replace(gt=_objects(*candidates.canvas, torch.Generator().manual_seed(1), 10 * OBJECTS))
    matcher = Matcher(*candidates.thresholds, allow_low_quality_matches=True)

    def theirs(c: Candidates) -> list[Tensor]:
        return [matcher(box_iou(gt, boxes)) for gt, boxes in zip(c.gt, c.boxes, strict=True)]

    functions: dict[str, Function] = {}
    for c in (candidates, many):
        functions[f"ours, {c.gt.shape[1]} objects"] = c.match
        functions[f"torchvision, {c.gt.shape[1]} objects"] = partial(theirs, c)
    seconds, results = _time_in_turns(functions, rounds)
    pairs = [(results[f"ours, {n} objects"], results[f"torchvision, {n} objects"]) for n in (OBJECTS, 10 * OBJECTS)]
    # Which of two objects with equal IoU is matched is undefined, so only matched or not is compared.
    same = all(torch.equal(ours.gt.clamp(max=0), torch.stack(other).clamp(max=0)) for ours, other in pairs)
    number = candidates.boxes.shape[1]
    return {"name": f"matching {IMAGES}x{number:,}", "seconds": seconds, "same": same}


def _random_boxes(number: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    corner = torch.rand(IMAGES, number, 2, generator=g) * torch.tensor([500.0, 340.0])
    extent = 20 + 120 * torch.rand(IMAGES, number, 2, generator=g)
    # All scores differ: the order of equal ones is undefined.
    order = [torch.randperm(number, generator=g) for _ in range(IMAGES)]
    scores = torch.stack(order).float() / number
    labels = torch.randint(0, groups, (IMAGES, number), generator=g)
    return torch.cat([corner, corner + extent], -1), scores, labels


def _compare_nms(name: str, inputs: tuple, valid: Tensor, threshold: float, size: int, rounds: int) -> dict[str, Any]:
    boxes, scores, groups = inputs

    def theirs() -> list[Tensor]:
        kept = []
        for b, s, n, v in zip(boxes, scores, groups, valid, strict=True):
            rows = v.nonzero().squeeze(1)
            kept.append(rows[torchvision_batched_nms(b[rows], s[rows], n[rows], threshold)[:size]])
        return kept

    functions = {
        "ours": lambda: batched_nms(boxes, scores, groups, valid, threshold=threshold, size=size),
        "torchvision": theirs,
    }
    seconds, results = _time_in_turns(functions, rounds)
    rows, filled = results["ours"]
    same = all(torch.equal(r[f], t) for r, f, t in zip(rows, filled, results["torchvision"], strict=True))
    return {"name": name, "seconds": seconds, "same": same}


def _proposal_nms(rounds: int) -> dict[str, Any]:
    """Measure NMS of as many boxes as an RPN has at 800x1344: the best 1,000 per level."""
    inputs = _random_boxes(4819, 5)
    valid = torch.ones_like(inputs[1], dtype=torch.bool)
    return _compare_nms(f"NMS of {IMAGES}x4,819 in 5 levels", inputs, valid, 0.7, 1000, rounds)


def _class_nms(rounds: int) -> dict[str, Any]:
    """Measure NMS of pairs of 1,000 proposals and 80 classes, of which some hundred pass the threshold."""
    boxes, scores, labels = _random_boxes(80_000, 80)
    valid = scores > 0.985
    name = f"NMS of {IMAGES}x{int(valid[0].sum()):,} of 80,000 in 80 classes"
    return _compare_nms(name, (boxes, scores, labels), valid, 0.5, 100, rounds)
