"""Time of inference on images with few proposals, where places of a fixed number of them would be empty."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.agreement import count_proposals
from benchmarks.cases import Case, Contender
from benchmarks.models import ModelUnderTest, build_libradet, prepare_libradet, prepare_torchvision
from benchmarks.step import make_step
from benchmarks.synthetic_inputs import SyntheticInputs, make_inputs

COUNTS = (8, 333)
LAYOUTS = ("plain", "channels_last")
BISECTIONS = 40


def measure_proposals(case: Case, weights: Path, rounds: int) -> list[dict[str, Any]]:
    """Measure libradet, in the engine "packed", and torchvision in fp32 in turns, with the largest proposals only.

    Returns:
        for each ``wanted`` number of proposals: the ``proposals`` that each library has, and ``seconds`` by library,
        one value per round; torchvision's are those of its faster ``layout``.
    """
    inputs = make_inputs(case)
    subjects = {layout: prepare_torchvision(case, layout, inputs, weights) for layout in LAYOUTS}
    count_theirs = _make_counter(subjects["plain"])
    return [_measure(case, inputs, weights, subjects, count_theirs, wanted, rounds) for wanted in COUNTS]


def _make_counter(subject: ModelUnderTest) -> Callable[[float], int]:
    """Return a function that counts torchvision's proposals of the first image for a minimum side in pixels."""
    rpn: Any = subject.model.rpn
    original, recorded = rpn.filter_proposals, []

    def record(*args: Any) -> Any:
        recorded.append(args)
        return original(*args)

    rpn.filter_proposals = record
    with torch.inference_mode():
        subject.call()
    rpn.filter_proposals = original

    def count(min_size: float) -> int:
        rpn.min_size = min_size
        with torch.inference_mode():
            boxes, _ = original(*recorded[0])
        return len(boxes[0])

    return count


def find_min_size(count: Callable[[float], int], wanted: int, largest: float) -> float:
    """Return a minimum side in pixels with which at most ``wanted`` proposals remain, as many as possible.

    It lies between the sides of the last one that is removed and of the first one that remains, so that a library with
    other rounding errors removes the same.
    """
    removes = _bisect(count, wanted, largest)
    remaining = count(removes)
    return (removes + _bisect(count, remaining - 1, largest)) / 2 if remaining else removes


def _bisect(count: Callable[[float], int], wanted: int, largest: float) -> float:
    """Return the least minimum side with which at most ``wanted`` proposals remain."""
    low, high = 0.0, largest
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if count(middle) > wanted else (low, middle)
    return high


def _measure(
    case: Case,
    inputs: SyntheticInputs,
    weights: Path,
    theirs: dict[str, ModelUnderTest],
    count_theirs: Callable[[float], int],
    wanted: int,
    rounds: int,
) -> dict[str, Any]:
    min_size = find_min_size(count_theirs, wanted, float(max(case.size)))
    proposals = {"torchvision": count_theirs(min_size)}
    for subject in theirs.values():
        subject.model.rpn.min_size = min_size
    model = build_libradet(case, weights)
    model.config.rpn.test_proposals.min_size = min_size
    proposals["ours"] = count_proposals(model, case)[0]
    ours = prepare_libradet(model, case, Contender("ours", "fp32", "packed"), inputs)
    steps = {name: make_step(subject, case, "fp32") for name, subject in (theirs | {"ours": ours}).items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if round_ > 0:  # the first round is warm-up
                seconds[name].append(time.perf_counter() - start)
    layout = min(LAYOUTS, key=lambda name: median(seconds[name]))
    times = {"ours": seconds["ours"], "torchvision": seconds[layout]}
    return {"wanted": wanted, "proposals": proposals, "layout": layout, "seconds": times}
