"""Seconds of a step, its floor, and the memory of the process that takes it."""

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import peers
from benchmarks.cases import OURS, Case, Contender
from benchmarks.floor import Floor, best_rate, record
from benchmarks.scene import Scene, draw
from benchmarks.sides import Side, our_model, ours, torchvision, total

WARM_UP = 2


def measure(case: Case, contender: Contender, weights: Path, steps: int, floor: bool) -> dict[str, Any]:
    """Seconds of each step, of the first one, MiB of the process at its peak and before the first step.

    Args:
        floor: also seconds of convolutions and matrix products alone, in turns with the steps, multiplications and
            additions of a step, and of how many this machine is capable in a second.
    """
    scene = draw(case)
    side = set_up(case, contender, scene, weights)
    take = stepper(side, case, contender.precision)
    before = _peak()
    first, *_ = [_seconds(take) for _ in range(WARM_UP)]
    result: dict[str, Any] = {"first": first, "peak": _peak(), "before": before, "seconds": [], "floor": []}
    alone = None
    if floor:
        alone = make_floor(case, contender.precision, weights)
        result |= {"flops": alone.flops, "rate": best_rate(contender.precision), "layout": alone.layout}
    for _ in range(steps):
        result["seconds"].append(_seconds(take))
        if alone is not None:
            result["floor"].append(_seconds(alone.run))
    return result


def stepper(side: Side, case: Case, precision: str) -> Callable[[], Any]:
    """One step as a function: a detection, or losses, gradients and the optimizer's step."""
    cast = {"dtype": torch.bfloat16, "enabled": precision == "bf16"}

    def infer() -> Any:
        with torch.inference_mode(), torch.autocast("cpu", **cast):
            return side.call()

    if case.task == "infer":
        return infer
    # At a learning rate of 0 weights stay as they are, and every step has the same work to do.
    trained = [p for p in side.model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9, weight_decay=1e-4)

    def train() -> Any:
        with torch.autocast("cpu", **cast):
            losses = side.call()
        optimizer.zero_grad()
        total(losses).backward()
        optimizer.step()
        return losses

    return train


def make_floor(case: Case, precision: str, weights: Path) -> Floor:
    """The arithmetic of our step as it is without being optimized or compiled, to be done alone."""
    model = our_model(case, weights)
    plain = Contender(OURS[0], "fp32")
    side = ours(model, case, plain, draw(case)) if case.task == "train" else _plain(model, case)
    calls = record(stepper(side, case, "fp32") if case.task == "train" else side.call)
    return Floor(calls, precision)


def _plain(model, case: Case) -> Side:
    from benchmarks.scene import as_batch

    batch = as_batch(draw(case), model.divisor)
    model.eval()

    def call():
        with torch.no_grad():
            return model(batch)

    return Side(model, call)


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def set_up(case: Case, contender: Contender, scene: Scene, weights: Path) -> Side:
    """Build and load. ``weights``: what :func:`benchmarks.torchvision_models.write_weights` wrote."""
    if contender.side in OURS:
        model = our_model(case, weights)
        return ours(model, case, contender, scene)
    if contender.side == "torchvision":
        return torchvision(case, contender.form, scene, weights)
    return peers.set_up(case, contender.side, scene, weights)
