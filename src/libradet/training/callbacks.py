"""Callbacks that log losses, draw validation images and show progress."""

from math import ceil
from pathlib import Path
from time import monotonic
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from libradet.evaluation.visualize import plot_predictions_grid
from libradet.inference.tiles import make_tiling
from libradet.inference.visualize import save_image
from libradet.training.config import TrainConfig
from libradet.training.loss_reader import StepLosses
from libradet.training.module import DetectorModule
from libradet.training.optim import total_batches
from libradet.training.run_files import PREDICTIONS_DIR

DRAWN_SCORE_THRESH = 0.3
LOG_SECONDS = 30.0
"""Seconds between two progress lines in a log."""


class LossLogger(pl.Callback):
    """Send mean losses, learning rate and images per second to all loggers every few steps.

    ``self.log`` would send the losses of single steps, and wait for the device to read them.

    Args:
        every_n_steps: optimizer steps between two rows; the last step of an epoch has a row, too.
    """

    def __init__(self, every_n_steps: int) -> None:
        self._every_n_steps = every_n_steps
        self._losses: list[StepLosses] = []
        self._images_per_second = 0.0
        self._step = 0
        self._num_batches, self._started = 0, monotonic()

    def on_train_start(self, trainer: pl.Trainer, module: DetectorModule) -> None:
        """Count steps from the progress of the run."""
        self._step = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, module: DetectorModule) -> None:
        """Exclude the time between epochs from the speed."""
        self._num_batches, self._started = 0, monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: DetectorModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log every few steps."""
        self._losses += module.loss_reader.drain()
        self._num_batches += 1
        has_stepped = trainer.global_step > self._step
        self._step = trainer.global_step
        is_due = self._step % self._every_n_steps == 0 or batch_idx + 1 == module.batches_per_epoch
        if has_stepped and is_due:
            num_images = self._num_batches * module.config.batch_size * trainer.world_size
            self._images_per_second = num_images / max(monotonic() - self._started, 1e-9)
            self._log(trainer)
            self._num_batches, self._started = 0, monotonic()

    def on_train_end(self, trainer: pl.Trainer, module: DetectorModule) -> None:
        """Log the remaining losses."""
        self._losses += module.loss_reader.drain(wait=True)
        self._log(trainer)

    def _log(self, trainer: pl.Trainer) -> None:
        finite = [step_losses for step_losses in self._losses if step_losses.is_finite]
        self._losses = []
        if not finite:
            return
        means = _means([step_losses.losses for step_losses in finite])
        extras = _means([step_losses.extras for step_losses in finite])
        row = {"lr": trainer.optimizers[0].param_groups[0]["lr"], "images_per_second": self._images_per_second}
        row |= {"loss": sum(means.values())} | {f"loss_{name}": value for name, value in means.items()} | extras
        metrics = {f"train/{name}": value for name, value in row.items()} | {"epoch": trainer.current_epoch}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, trainer.global_step)


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


class LogValPredictions(pl.Callback):
    """Draw ground truth and predictions of some validation images after every validation.

    Has to precede weight averaging in the list of callbacks, so that the validated weights are drawn.

    Args:
        folder: of the run.
        num_images: images to draw.
    """

    def __init__(self, folder: Path, num_images: int) -> None:
        self._folder = folder
        self._num_images = num_images

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: DetectorModule) -> None:
        """Draw in the first process."""
        data = module.data
        if not (self._num_images and trainer.is_global_zero and data.val_set) or trainer.sanity_checking:
            return
        grid = plot_predictions_grid(
            module.detector,
            data.val_set,
            num_images=self._num_images,
            score_thresh=DRAWN_SCORE_THRESH,
            proposals=data.val_proposals,
            tiling=make_tiling(module.detector, data.tiles),
            batch_size=data.batch_size,
        )
        save_image(grid, predictions_path(self._folder, module.epoch_of_last_batch))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("val/predictions", grid, module.steps_done, dataformats="HWC")
            elif hasattr(logger, "log_image"):
                logger.log_image("val/predictions", [grid], step=module.steps_done)


def predictions_path(folder: Path, epoch: int) -> Path:
    """Return the path of the drawn validation images of an epoch, counted from 0."""
    return folder / PREDICTIONS_DIR / f"epoch_{epoch + 1:03}.png"


class TrainingProgressBar(RichProgressBar):
    """Lightning's progress bar with the losses read last, which does not wait for the device.

    Args:
        console: terminal of the run.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console_kwargs={"file": console.file, "force_terminal": True})
        self._run_console = console

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return loss terms and their sum."""
        reader = getattr(pl_module, "loss_reader", None)
        latest = None if reader is None else reader.latest
        return {} if latest is None else {"loss": sum(latest.losses.values())} | latest.losses

    @property
    def validation_description(self) -> str:
        """Description of the bar during validation."""
        return "Validating"

    def print_line(self, text: str) -> None:
        """Print a line above the bar."""
        console = self._run_console if self.progress is None else self.progress.console
        console.print(text, highlight=False, markup=False)


class ProgressLines(pl.Callback):
    """Print a line of progress now and then, where the output is not a terminal.

    Args:
        console: to print to.
        config: of the run; its length follows from it.
    """

    def __init__(self, console: Console, config: TrainConfig) -> None:
        self._console = console
        self._config = config
        self._epochs, self._total, self._first_batch = 0, 0, 0
        self._printed = self._started = self._validation_started = monotonic()

    def on_train_start(self, trainer: pl.Trainer, module: DetectorModule) -> None:
        """Start counting from the progress of the run."""
        self._total, self._first_batch = total_batches(self._config, module.batches_per_epoch), module.batches_done
        self._epochs = ceil(self._total / module.batches_per_epoch)
        self._printed = self._started = monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: DetectorModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line if it is time."""
        is_due = monotonic() - self._printed > LOG_SECONDS or module.batches_done == self._total
        latest = module.loss_reader.latest
        if latest is None or not is_due:
            return
        self._printed = monotonic()
        num_images = (module.batches_done - self._first_batch) * module.config.batch_size * trainer.world_size
        images_per_second = num_images / max(monotonic() - self._started, 1e-9)
        self.print_line(self.line(module.batches_done, trainer.current_epoch + 1, latest.losses, images_per_second))

    def on_validation_start(self, trainer: pl.Trainer, module: DetectorModule) -> None:
        """Stop the clock."""
        self._validation_started = monotonic()

    def on_validation_end(self, trainer: pl.Trainer, module: DetectorModule) -> None:
        """Exclude validation from the speed."""
        self._started += monotonic() - self._validation_started

    def line(self, batches_done: int, epoch: int, losses: dict[str, float], images_per_second: float) -> str:
        """Return the line after a batch, with epochs counted from 1."""
        terms = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        seconds_per_batch = (monotonic() - self._started) / max(1, batches_done - self._first_batch)
        minutes, seconds = divmod(round(seconds_per_batch * (self._total - batches_done)), 60)
        parts = [
            f"epoch {epoch}/{self._epochs}",
            f"batch {batches_done:,}/{self._total:,}",
            f"loss {sum(losses.values()):.3f} ({terms})",
            f"{images_per_second:.1f} images/s",
            f"{minutes // 60}:{minutes % 60:02}:{seconds:02} remaining",
        ]
        return " - ".join(parts)

    def print_line(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, markup=False)
