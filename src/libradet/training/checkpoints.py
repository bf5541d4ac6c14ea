"""last.ckpt and best.safetensors: when they are written, and how."""

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
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from libradet.errors import UserError
from libradet.evaluation.coco_metrics import Metrics
from libradet.models.config import DetectorConfig
from libradet.models.model_file import write_model
from libradet.training.callbacks import sample_path
from libradet.training.module import Measured
from libradet.training.settings import TrainConfig
from libradet.training.standing import LAST, PREVIOUS, read_checkpoint
from libradet.training.stopping import AgreedError, Agreement, Interrupted, SignalWatch, Wish
from libradet.utils.atomic_io import atomic_write, write_json

if TYPE_CHECKING:
    from libradet.training.module import DetectorModule

__all__ = ["BEST", "LAST", "METRICS", "PREVIOUS", "BestWeights", "LastCheckpoint", "RunFiles", "read_checkpoint"]

BEST, METRICS, SHEET = "best.safetensors", "metrics.json", "sheet.png"


class RunFiles(TorchCheckpointIO):
    """Writes beside the old file and swaps, so that a kill at any moment leaves a whole one.

    last.ckpt becomes previous.ckpt first, so that a file which a disk damages later is not the only one.

    Paths that end in .safetensors become models for :func:`libradet.load_model`; with averaged weights, of those.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self._config = config

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Replace the file at ``path``."""
        if Path(path).suffix == ".safetensors":
            write_model(detector_state(checkpoint), self._config, path)
            return
        path = Path(path)
        with atomic_write(path) as partial:
            torch.save(checkpoint, partial)
            if path.name == LAST and path.exists():
                os.replace(path, path.with_name(PREVIOUS))


def detector_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """State of the detector alone out of a checkpoint; with averaged weights, theirs."""
    own = {n: t for n, t in checkpoint["state_dict"].items() if n.startswith("detector.")}
    return {name.removeprefix("detector."): tensor for name, tensor in own.items()}


class LastCheckpoint(ModelCheckpoint):
    """Writes last.ckpt: at every epoch's end before anything is measured, now and then between, and on a signal.

    Lightning's own asks for steps or a clock, in every process and between the same epochs only; this one also
    stops runs: on Ctrl-C and SIGTERM, at the last step, and when a loss is no number any more, in all
    processes at the same step.

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
        super().__init__(folder, filename=Path(LAST).stem, save_on_train_epoch_end=True, enable_version_counter=False)
        self.stopping = False
        self._agreement: Agreement | None = None
        self._folder = folder
        self._config = config
        self._signals = signals
        self._describe = describe
        self._granted = Wish.NOTHING
        self._saved_at, self._saved_step = monotonic(), 0

    def on_train_start(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        """Lightning takes the signals when a run starts; they are taken back."""
        self._signals.install()
        # In its place Lightning would ask all processes about SIGTERM in every step, and wait for the answer.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None
        self._agreement = Agreement()
        self._saved_at, self._saved_step = monotonic(), trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: "DetectorModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Agree with the other processes on what to do, and do it where gradients are not half gathered."""
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
        if self.stopping or finished:
            trainer.should_stop = True
        if finished or (last and trainer.current_epoch + 1 == self._config.epochs):
            trainer.check_val_every_n_epoch = 1  # the end of a run is always measured
        if self.stopping:
            trainer.limit_val_batches = 0  # a run that is stopped measures when it goes on
        if (self._granted or finished) and not last:
            self._save(trainer, module)
        self._granted = Wish.NOTHING

    def on_validation_start(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        """A long validation must not cost the steps before it."""
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
        """A validation that is stopped leaves no trace; it is made up for when the run goes on."""
        if self._agreement is None:
            return
        wish = Wish.STOP if self._signals.received is not None else Wish.NOTHING
        if self.agreement.after_step(wish) is Wish.STOP:
            raise Interrupted(self._signals.received or signal.SIGTERM, self._folder)

    def on_validation_end(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        """What is measured changes nothing here."""
        if self._agreement is not None and self.agreement.settle() is Wish.STOP:
            self.stopping = trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        """Save unless the epoch was left in its middle, in which case it is saved already."""
        if module.batches_done % module.batches_per_epoch == 0:
            self._save(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        """Nobody waits for an answer any more."""
        self.agreement.settle()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the file itself is all there is to know, wherever its folder is."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """There is nothing to load."""

    @property
    def agreement(self) -> Agreement:
        """With the other processes; there from the start of training on."""
        assert self._agreement is not None
        return self._agreement

    def _wish(self, trainer: pl.Trainer, module: "DetectorModule") -> Wish:
        if module.watch.failure is not None:
            return Wish.FAIL
        if self._signals.received is not None:
            return Wish.STOP
        # Only one clock counts, else processes would save at different steps.
        late = trainer.is_global_zero and monotonic() - self._saved_at > 60 * self._config.save_minutes
        many = self._config.save_steps and trainer.global_step - self._saved_step >= self._config.save_steps
        return Wish.SAVE if late or many else Wish.NOTHING

    def _save(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        self._refuse_infinite(trainer, module)
        self._save_checkpoint(trainer, str(self._folder / LAST))
        self._saved_at, self._saved_step = monotonic(), trainer.global_step

    def _refuse_infinite(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        module.watch.poll(wait=True)
        failure = module.watch.failure
        if failure is None and not torch.stack([p.isfinite().all() for p in module.parameters()]).all():
            # Gradients may overflow where losses do not: such weights must not replace those that can go on.
            failure = module.watch.latest
        mine = None if failure is None else self._describe(failure, trainer.global_step)
        message = self.agreement.first(mine)
        if message is not None:
            raise AgreedError(message)


class BestWeights(ModelCheckpoint):
    """Writes best.safetensors, and what was measured beside it, whenever a validation is the best so far.

    Without validation images, and where there is nothing to find in them, the latest weights are the best. Which
    were best before, the folder says: a checkpoint that a run goes on from may be older.

    Args:
        folder: the run folder.
        monitor: what decides, such as "val/AP"; None if nothing is measured.
        say: shows a line.
    """

    FILE_EXTENSION = Path(BEST).suffix

    def __init__(self, folder: Path, monitor: str | None, say: Callable[[str], None]) -> None:
        super().__init__(
            folder,
            filename=Path(BEST).stem,
            monitor=monitor,
            mode="max",
            auto_insert_metric_name=False,
            save_on_train_epoch_end=monitor is None,
            enable_version_counter=False,
        )
        self._folder = folder
        self._say = say
        self._recall()

    def on_validation_end(self, trainer: pl.Trainer, module: "DetectorModule") -> None:
        """Keep the weights if they are the best."""
        if trainer.sanity_checking:
            return
        self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        best = self._last_global_step_saved == module.steps_done
        said = f"epoch {module.epoch_of_last_batch + 1}: {in_short(module.metrics)}"
        self._say(f"{said}{' · best so far' if best else ''}")

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Whether this is the best; where there is nothing to find, the latest is."""
        return bool(current is not None and current.isnan()) or super().check_monitor_top_k(trainer, current)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: see above."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """There is nothing to load."""

    def _recall(self) -> None:
        path = self._folder / METRICS
        if self.monitor is None or not path.exists():
            return
        score = read_measured(path).get(self.monitor.removeprefix("val/"))
        best = self.format_checkpoint_name({})
        # Logged numbers have single precision, so they are compared in it.
        self.best_k_models = {best: torch.tensor(float("-inf") if score is None else score)}
        self.kth_best_model_path = self.best_model_path = best

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        trainer.save_checkpoint(filepath, weights_only=False)
        module: Any = trainer.lightning_module
        self._last_global_step_saved = module.steps_done
        if self.monitor is None or not trainer.is_global_zero:
            return
        epoch = module.epoch_of_last_batch
        write_json(self._folder / METRICS, {"step": module.steps_done, "epoch": epoch + 1} | module.metrics, indent=1)
        if (drawn := sample_path(self._folder, epoch)).exists():
            with atomic_write(self._folder / SHEET) as partial:
                shutil.copyfile(drawn, partial)
        for logger in trainer.loggers:
            logger.after_save_checkpoint(self)


def read_measured(path: Path) -> Metrics:
    """The numbers of the best weights. Raises UserError if somebody has damaged the file."""
    try:
        content = json.loads(path.read_text())
    except ValueError as e:
        content = e
    if not isinstance(content, dict):
        raise UserError(f"{path}: is damaged ({content}); delete it, and the next measurement is the best so far")
    return content


def in_short(metrics: Metrics) -> str:
    """Average precision in one line."""
    names = [name for name in ("AP", "AP50", "AP75", "mask_AP", "mask_AP50", "mask_AP75") if name in metrics]
    shown = {name.replace("_", " "): metrics[name] for name in names}
    return " · ".join(f"{name} {'–' if value is None else f'{value:.3f}'}" for name, value in shown.items())
