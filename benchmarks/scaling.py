"""Time of a training step per image by batch size and by number of objects."""

import time
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, Contender
from benchmarks.models import build_libradet, prepare_libradet
from benchmarks.step import make_step
from benchmarks.synthetic_inputs import make_inputs

BATCHES = (1, 2, 4, 8)
OBJECTS = (1, 10, 100)


def measure_scaling(case: Case, weights: Path, precision: str, rounds: int) -> dict[str, Any]:
    """Return seconds of a training step per image: lists over rounds, by batch size and by objects per image.

    All are measured in turns in one process. ``case`` and ``precision`` are in the result as well.
    """
    model = build_libradet(case, weights)
    variants = {("batch", n): Case("train", case.model, case.size, n, objects=8) for n in BATCHES}
    variants |= {("objects", n): Case("train", case.model, case.size, 2, objects=n) for n in OBJECTS}
    steps = {}
    for key, variant in variants.items():
        subject = prepare_libradet(model, variant, Contender("ours", precision), make_inputs(variant))
        steps[key] = make_step(subject, variant, precision)
        steps[key]()
    seconds: dict[str, Any] = {"batch": {n: [] for n in BATCHES}, "objects": {n: [] for n in OBJECTS}}
    for _ in range(rounds):
        for (quantity, n), step in steps.items():
            start = time.perf_counter()
            step()
            seconds[quantity][n].append((time.perf_counter() - start) / variants[quantity, n].batch)
    return {"case": case.name, "precision": precision} | seconds
