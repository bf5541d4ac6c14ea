"""What a training step of one row costs beside another's."""

from collections.abc import Sequence
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
import yaml
from torch import Tensor

from libradet.data.batch import Batch
from libradet.data.loading.loader import make_loader
from libradet.experiments.presets import nested
from libradet.experiments.runs import Run
from libradet.models.detector import Detector
from libradet.train_options import parse_train
from libradet.training.prepare import Plan, prepare

ROUNDS = 7


def compare_steps(runs: Sequence[Run]) -> list[list[float]]:
    """Seconds of forward and backward pass of each run's detector on the same batches, taken in turns."""
    plans = [_plan(run) for run in runs]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for plan in plans:
        plan.detector.to(device)
    batches = [_batch(plan) for plan in plans]
    seconds: list[list[float]] = [[] for _ in plans]
    for turn in range(ROUNDS + 1):
        for times, plan, batch in zip(seconds, plans, batches, strict=True):
            taken = _step(plan.detector, batch.to(device), plan.config.precision == "bf16")
            if turn:  # the first one warms up
                times.append(taken)
    return seconds


def ratio(first: list[float], second: list[float]) -> float:
    """Median of the second's time over the first's, turn by turn."""
    return median(b / a for a, b in zip(first, second, strict=True))


def _plan(run: Run) -> Plan:
    with TemporaryDirectory() as folder:
        path = f"{folder}/request.yaml"
        with open(path, "w", encoding="utf-8") as file:
            yaml.safe_dump(nested(dict(run.settings)), file)
        request = parse_train(["--config", path])
    return prepare(request.config, request.detector)


def _batch(plan: Plan) -> Batch:
    loader = make_loader(
        plan.data.train_set,
        size=plan.detector.config.image.size,
        batch_size=plan.config.batch_size,
        training=True,
        divisor=plan.detector.divisor,
        proposals=plan.data.train_proposals,
    )
    return next(iter(loader))


def _step(detector: Detector, batch: Batch, bf16: bool) -> float:
    began = perf_counter()
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=bf16):
        losses: dict[str, Tensor] = detector(batch)
    torch.stack(list(losses.values())).sum().backward()
    if batch.images.is_cuda:
        torch.cuda.synchronize()
    taken = perf_counter() - began
    detector.zero_grad()
    return taken
