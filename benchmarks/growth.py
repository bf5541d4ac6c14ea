"""How the cost of an image grows with the images of a batch and with the objects on each."""

import time
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, Contender
from benchmarks.scene import draw
from benchmarks.sides import our_model, ours
from benchmarks.step import stepper

BATCHES = (1, 2, 4, 8)
OBJECTS = (1, 10, 100)


def measure_growth(case: Case, weights: Path, precision: str, rounds: int) -> dict[str, Any]:
    """Seconds of a training step by image: lists over rounds, for numbers of images and of objects.

    All are measured in turns by one process.
    """
    model = our_model(case, weights)
    variants = {("batch", n): Case("train", case.model, case.size, n, objects=8) for n in BATCHES}
    variants |= {("objects", n): Case("train", case.model, case.size, 2, objects=n) for n in OBJECTS}
    steps = {}
    for key, variant in variants.items():
        side = ours(model, variant, Contender("ours", precision), draw(variant))
        steps[key] = stepper(side, variant, precision)
        steps[key]()
    seconds: dict[str, Any] = {"batch": {n: [] for n in BATCHES}, "objects": {n: [] for n in OBJECTS}}
    for _ in range(rounds):
        for (what, n), step in steps.items():
            start = time.perf_counter()
            step()
            seconds[what][n].append((time.perf_counter() - start) / variants[what, n].batch)
    return seconds
