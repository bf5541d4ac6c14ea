"""Write last.ckpt and best.safetensors."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from libradet.errors import UserError
from libradet.evaluation.coco import Metrics
from libradet.models.config import DetectorConfig
from libradet.models.serialization import save_state_dict
from libradet.training.callbacks import predictions_path
from libradet.training.config import TrainConfig
from libradet.training.loss_reader import StepLosses
from libradet.training.run_files import (
    BEST_METRICS,
    BEST_MODEL,
    BEST_PREDICTIONS,
    LAST_CHECKPOINT,
    PREVIOUS_CHECKPOINT,
)
from libradet.training.signals import CollectiveError, Interrupted, SignalHandler, SignalSync, StopAction
from libradet.utils.atomic_io import atomic_write, write_json

if TYPE_CHECKING:
    from libradet.training.module import DetectorModule


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints to a temporary file and rename it, so that a kill never leaves a partial one.

    last.ckpt is renamed to previous.ckpt first, as a backup for a last.ckpt that gets damaged on disk. Paths that end
    in .safetensors become models for :func:`libradet.load_model`, of the averaged weights if there are any.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self._config = config

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Replace the file at ``path`` atomically."""
        if Path(path).suffix == ".safetensors":
            save_state_dict(detector_state_dict(checkpoint), self._config, path)
            return
        path = Path(path)
        with atomic_write(path) as partial:
            torch.save(checkpoint, partial)
            if path.name == LAST_CHECKPOINT and path.exists():
                os.replace(path, path.with_name(PREVIOUS_CHECKPOINT))


def detector_state_dict(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Return the state dict of the detector in a checkpoint, of the averaged weights if there are any."""
    prefix = "detector."
    tensors = checkpoint["state_dict"].items()
    return {name.removeprefix(prefix): tensor for name, tensor in tensors if name.startswith(prefix)}


class LastCheckpoint(Checkpoint):
    """Write last.ckpt at the end of every epoch before validation, at intervals within an epoch, and on a signal.

    Lightning's ModelCheckpoint saves after a number of steps or a time, but not both, and only between epochs or
    between validations. This callback also ends runs in all processes at the same step: on SIGINT and SIGTERM, at the
    last step, and when a loss is NaN or infinite.

    Args:
        folder: the run folder.
        signals: records SIGINT and SIGTERM.
        describe_failure: returns the message for losses that are not finite at a step.

    Attributes:
        interrupted: the run ends before it is finished.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        signals: SignalHandler,
        describe_failure: Callable[[StepLosses, int], str],
    ) -> None:
        self.interrupted = False
        self._sync: SignalSync | None = None
        self._folder = folder
        self._config = config
        self._signals = signals
        self._describe_failure = describe_failure
        self._agreed = StopAction.NOTHING
        self._saved_at, self._saved_step = monotonic(), 0

    def on_train_start(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        """Install the signal handlers again, over those that Lightning installs when a run starts."""
        self._signals.install()
        # Private: Lightning would ask all processes about SIGTERM in every step, and wait for the answer.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        self._sync = SignalSync()
        self._saved_at, self._saved_step = monotonic(), trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: "DetectorModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Agree with the other processes on an action, and apply it after the next complete optimizer step."""
        module.loss_reader.poll()
        self._agreed = max(self._agreed, self.sync.after_step(self._requested_action(trainer, module)))
        if self._agreed is StopAction.FAIL:
            self._refuse_infinite(trainer, module)
        is_epoch_end = module.batches_done % module.batches_per_epoch == 0
        if (batch_idx + 1) % self._config.accumulate_grad_batches and not is_epoch_end:
            return
        # With Lightning's own max_steps a run that is resumed between two epochs would repeat a batch.
        finished = self._config.max_steps is not None and trainer.global_step >= self._config.max_steps
        self.interrupted = self._agreed is StopAction.STOP
        if self.interrupted or finished:
            trainer.should_stop = True
        if finished or (is_epoch_end and trainer.current_epoch + 1 == self._config.max_epochs):
            trainer.check_val_every_n_epoch = 1  # the end of a run is always validated
        if self.interrupted:
            trainer.limit_val_batches = 0  # an interrupted run is validated when it is resumed
        if (self._agreed or finished) and not is_epoch_end:
            self._save(trainer, module)
        self._agreed = StopAction.NOTHING

    def on_validation_start(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        """Save, so that a kill during a long validation does not lose the steps before it."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save(trainer, module)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        module: "DetectorModule",
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop on a signal; an interrupted validation is repeated when the run is resumed."""
        if self._sync is None:
            return
        action = StopAction.STOP if self._signals.received is not None else StopAction.NOTHING
        if self.sync.after_step(action) is StopAction.STOP:
            raise Interrupted(self._signals.received or signal.SIGTERM, self._folder)

    def on_validation_end(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        """Stop after the validation if a process was signaled during its last batch."""
        if self._sync is not None and self.sync.wait() is StopAction.STOP:
            self.interrupted = trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        """Save, unless the epoch was interrupted, in which case it is already saved."""
        if module.batches_done % module.batches_per_epoch == 0:
            self._save(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        """Complete the pending communication."""
        self.sync.wait()

    @property
    def sync(self) -> SignalSync:
        """Communication with the other processes; set when training starts."""
        assert self._sync is not None
        return self._sync

    def _requested_action(self, trainer: pl.Trainer, module: "DetectorModule") -> StopAction:
        if module.loss_reader.failure is not None:
            return StopAction.FAIL
        if self._signals.received is not None:
            return StopAction.STOP
        # Only the clock of one process counts, or processes would save at different steps.
        seconds = monotonic() - self._saved_at
        is_late = trainer.is_global_zero and seconds > 60 * self._config.save_every_n_minutes
        interval = self._config.save_every_n_steps
        is_due = interval is not None and trainer.global_step - self._saved_step >= interval
        return StopAction.SAVE if is_late or is_due else StopAction.NOTHING

    def _save(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        self._refuse_infinite(trainer, module)
        trainer.save_checkpoint(self._folder / LAST_CHECKPOINT, weights_only=False)
        self._saved_at, self._saved_step = monotonic(), trainer.global_step

    def _refuse_infinite(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        reader = module.loss_reader
        reader.poll(wait=True)
        failure = reader.failure
        if failure is None and not torch.stack([p.isfinite().all() for p in module.parameters()]).all():
            # Gradients may overflow where losses do not: such weights must not replace those of an intact checkpoint.
            failure = reader.latest
        message = None if failure is None else self._describe_failure(failure, trainer.global_step)
        first_message = self.sync.first_message(message)
        if first_message is not None:
            raise CollectiveError(first_message)


class BestCheckpoint(ModelCheckpoint):
    """Write best.safetensors, and its metrics, whenever a validation is the best so far.

    Without validation images, and without objects in them, the latest weights are kept. The best score of a resumed
    run is read from the run folder, since the checkpoint that it is resumed from may be older.

    Args:
        folder: the run folder.
        monitor: name of the metric that decides, such as "val/AP"; None without validation.
        log: prints a line.
    """

    def __init__(self, folder: Path, monitor: str | None, log: Callable[[str], None]) -> None:
        super().__init__(folder, monitor=monitor, mode="max", save_on_train_epoch_end=monitor is None)
        self._folder = folder
        self._path = str(folder / BEST_MODEL)
        self._log = log
        if monitor is not None and (folder / BEST_METRICS).exists():
            score = read_best_metrics(folder / BEST_METRICS).get(monitor.removeprefix("val/"))
            # Logged metrics have single precision, so they are compared in it.
            self._set_best(torch.tensor(float("-inf") if score is None else score))

    def on_validation_end(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        """Save the weights if they are the best."""
        if trainer.sanity_checking or self.monitor is None:
            return
        score = trainer.callback_metrics[self.monitor]
        is_best = self.check_monitor_top_k(trainer, score)
        if is_best:
            self._save_best(trainer, module)
            self._set_best(torch.full_like(score, float("-inf")) if score.isnan() else score)
        suffix = " - best so far" if is_best else ""
        self._log(f"epoch {module.epoch_of_last_batch + 1}: {format_metrics(module.metrics)}{suffix}")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        """Save the latest weights if there is no validation."""
        if self.monitor is None:
            trainer.save_checkpoint(self._path, weights_only=False)

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Return whether this score is the best; NaN, of images without objects, always is."""
        return bool(current is not None and current.isnan()) or super().check_monitor_top_k(trainer, current)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the state is in the run folder."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the state is in the run folder."""

    def _set_best(self, score: Tensor) -> None:
        self.best_k_models = {self._path: score}
        self.kth_best_model_path = self.best_model_path = self._path
        self.best_model_score = score

    def _save_best(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        trainer.save_checkpoint(self._path, weights_only=False)
        if not trainer.is_global_zero:
            return
        epoch = module.epoch_of_last_batch
        metrics = {"step": module.steps_done, "epoch": epoch + 1} | module.metrics
        write_json(self._folder / BEST_METRICS, metrics, indent=1)
        if (predictions := predictions_path(self._folder, epoch)).exists():
            with atomic_write(self._folder / BEST_PREDICTIONS) as partial:
                shutil.copyfile(predictions, partial)
        for logger in trainer.loggers:
            logger.after_save_checkpoint(self)


def read_best_metrics(path: Path) -> Metrics:
    """Return the metrics of the best weights. Raises UserError if the file is damaged."""
    try:
        content = json.loads(path.read_text())
    except ValueError as e:
        content = e
    if not isinstance(content, dict):
        raise UserError(f"{path}: is damaged ({content}); delete it, and the next validation counts as the best so far")
    return content


def format_metrics(metrics: Metrics) -> str:
    """Return average precisions as one line."""
    names = [name for name in ("AP", "AP50", "AP75", "mask_AP", "mask_AP50", "mask_AP75") if name in metrics]
    values = {name: "-" if metrics[name] is None else f"{metrics[name]:.3f}" for name in names}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
