"""Keeps a run safe: saves, stops on request, and stops when a loss is no number any more."""

from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import lightning.pytorch as pl

from libradet.training.folder import LAST
from libradet.training.module import DetectorTraining
from libradet.training.settings import TrainConfig
from libradet.training.stopping import AgreedError, Agreement, SignalWatch, Wish
from libradet.training.watch import Measured


class Keeper(pl.Callback):
    """Writes last.ckpt at every epoch's end, now and then between, and when a signal arrives.

    Args:
        folder: the run folder.
        signals: notes Ctrl-C and SIGTERM.
        describe: words for losses that are not finite.

    Attributes:
        stopping: the run ends before its time.
    """

    def __init__(
        self, folder: Path, config: TrainConfig, signals: SignalWatch, describe: Callable[[Measured, int], str]
    ) -> None:
        self.stopping = False
        self._agreement: Agreement | None = None
        self._path = folder / LAST
        self._config = config
        self._signals = signals
        self._describe = describe
        self._granted = Wish.NOTHING
        self._saved_at, self._saved_step = monotonic(), 0

    def on_train_start(self, trainer: pl.Trainer, module: DetectorTraining) -> None:
        """Lightning takes the signals when a run starts; they are taken back."""
        self._signals.install()
        # In its place Lightning would ask all processes about SIGTERM in every step, and wait for the answer.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        self._agreement = Agreement()
        self._saved_at, self._saved_step = monotonic(), trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: DetectorTraining, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Agree with the other processes on what to do, and do it where gradients are not half gathered."""
        module.batches_done = trainer.current_epoch * module.batches_per_epoch + batch_idx + 1
        module.watch.poll()
        self._granted = max(self._granted, self.agreement.after_step(self._wish(trainer, module)))
        if self._granted is Wish.FAIL:
            self._refuse_infinite(trainer, module)
        last = module.batches_done % module.batches_per_epoch == 0
        if (batch_idx + 1) % self._config.accumulate and not last:
            return
        # Lightning's own limit of steps makes it repeat a batch when a run is resumed between two epochs.
        finished = self._config.max_steps is not None and trainer.global_step >= self._config.max_steps
        self.stopping = self._granted is Wish.STOP
        trainer.should_stop = self.stopping or finished
        if (self._granted or finished) and not last:
            self._save(trainer, module)
        self._granted = Wish.NOTHING

    def on_train_epoch_end(self, trainer: pl.Trainer, module: DetectorTraining) -> None:
        """Save unless the epoch was left in its middle, in which case it is saved already."""
        if module.batches_done % module.batches_per_epoch == 0:
            self._save(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: DetectorTraining) -> None:
        """Nobody waits for an answer any more."""
        self.agreement.settle()

    @property
    def agreement(self) -> Agreement:
        """With the other processes; there from the start of training on."""
        assert self._agreement is not None
        return self._agreement

    @property
    def interrupted(self) -> bool:
        """Whether this process was asked to stop."""
        return self._signals.received is not None

    def _wish(self, trainer: pl.Trainer, module: DetectorTraining) -> Wish:
        if module.watch.failure is not None:
            return Wish.FAIL
        if self.interrupted:
            return Wish.STOP
        # Only one clock counts, else processes would save at different steps.
        late = trainer.is_global_zero and monotonic() - self._saved_at > 60 * self._config.save_minutes
        many = self._config.save_steps and trainer.global_step - self._saved_step >= self._config.save_steps
        return Wish.SAVE if late or many else Wish.NOTHING

    def _save(self, trainer: pl.Trainer, module: DetectorTraining) -> None:
        self._refuse_infinite(trainer, module)
        trainer.save_checkpoint(self._path)
        self._saved_at, self._saved_step = monotonic(), trainer.global_step

    def _refuse_infinite(self, trainer: pl.Trainer, module: DetectorTraining) -> None:
        module.watch.poll(wait=True)
        failure = module.watch.failure
        mine = None if failure is None else self._describe(failure, trainer.global_step)
        message = self.agreement.first(mine)
        if message is not None:
            raise AgreedError(message)
