"""Tells people and files how a run is going."""

from time import monotonic
from typing import Any

import lightning.pytorch as pl

from libradet.training.module import DetectorTraining
from libradet.training.progress import ProgressDisplay
from libradet.training.record import Record
from libradet.training.watch import Measured


class Reporter(pl.Callback):
    """Shows losses, rate and time left after every batch and records their means now and then.

    Args:
        record: None in all processes but the first.
        every: optimiser steps between two rows of the record.
    """

    def __init__(self, record: Record | None, display: ProgressDisplay, every: int) -> None:
        self._record = record
        self._display = display
        self._every = every
        self._losses: list[Measured] = []
        self._rate = 0.0
        self._step = 0
        self._batches, self._since = 0, monotonic()

    def on_train_start(self, trainer: pl.Trainer, module: DetectorTraining) -> None:
        """From here on it can be seen."""
        self._display.start()
        self._step = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, module: DetectorTraining) -> None:
        """What happened between epochs was not training."""
        self._batches, self._since = 0, monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: DetectorTraining, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show every batch, record every few."""
        self._losses += module.watch.take()
        self._batches += 1
        pictures = self._batches * module.config.batch_size * module.config.world_size
        rate = pictures / max(monotonic() - self._since, 1e-9)
        done = trainer.current_epoch * module.batches_per_epoch + batch_idx + 1
        if self._losses:
            self._display.step(done, trainer.current_epoch + 1, self._losses[-1].losses, self._rate or rate)
        stepped = trainer.global_step > self._step
        self._step = trainer.global_step
        if stepped and (self._step % self._every == 0 or batch_idx + 1 == module.batches_per_epoch):
            self._rate = rate
            self._write(trainer)
            self._batches, self._since = 0, monotonic()

    def on_train_end(self, trainer: pl.Trainer, module: DetectorTraining) -> None:
        """Write what is left."""
        module.watch.poll(wait=True)
        self._losses += module.watch.take()
        self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        known, self._losses = [m.losses for m in self._losses if m.finite], []
        if self._record is None or not known:
            return
        means = {name: sum(losses[name] for losses in known) / len(known) for name in known[0]}
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        self._record.training(trainer.global_step, trainer.current_epoch, lr, self._rate, means)
