"""Time of a training step of one row relative to another's."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
import yaml
from torch import Tensor

from libradet.data.batch import Batch
from libradet.data.loader import make_loader
from libradet.experiments.definitions import nest
from libradet.experiments.launcher import TrainingRun
from libradet.models.detector import Detector
from libradet.training.options import parse_train
from libradet.training.setup import TrainSetup, setup_training

ROUNDS = 7


def time_steps(runs: Sequence[TrainingRun]) -> list[list[float]]:
    """Return seconds of forward and backward pass for each run's detector, on the same images and in turns."""
    setups = [_setup(run) for run in runs]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for setup in setups:
        setup.detector.to(device)
    batches = [_first_batch(setup) for setup in setups]
    seconds: list[list[float]] = [[] for _ in setups]
    for i in range(1 + ROUNDS):
        for times, setup, batch in zip(seconds, setups, batches, strict=True):
            duration = _time_step(setup.detector, batch.to(device), setup.config.precision == "bf16")
            if i > 0:  # the first round is warm-up
                times.append(duration)
    return seconds


def median_ratio(first: list[float], second: list[float]) -> float:
    """Return the median over rounds of the second's time divided by the first's."""
    return median(b / a for a, b in zip(first, second, strict=True))


def _setup(run: TrainingRun) -> TrainSetup:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "request.yaml"
        path.write_text(yaml.safe_dump(nest(dict(run.settings))), encoding="utf-8")
        request = parse_train(["--config", str(path)])
    return setup_training(request.config, request.detector)


def _first_batch(setup: TrainSetup) -> Batch:
    loader = make_loader(
        setup.data.train_set,
        size=setup.detector.config.image.size,
        batch_size=setup.config.batch_size,
        training=True,
        size_divisible=setup.detector.size_divisible,
        proposals=setup.data.train_proposals,
    )
    return next(iter(loader))


def _time_step(detector: Detector, batch: Batch, bf16: bool) -> float:
    start = perf_counter()
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=bf16):
        losses: dict[str, Tensor] = detector(batch)
    torch.stack(list(losses.values())).sum().backward()
    if batch.images.is_cuda:
        torch.cuda.synchronize()
    seconds = perf_counter() - start
    detector.zero_grad()
    return seconds
