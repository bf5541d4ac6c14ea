"""What a run reads from its steps, and shows of its images."""

from pathlib import Path
from time import monotonic
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger

from libradet.evaluation.sheets import image_sheet
from libradet.inference.drawing import save
from libradet.training.module import DetectorModule, Measured

SAMPLES = "samples"
SHOWN_FROM = 0.3


class LossLogging(pl.Callback):
    """Hands mean losses, learning rate and images per second to all loggers every few steps.

    Lightning's own way logs the losses of single steps, and waits for the device to read them.

    Args:
        every: optimizer steps between two rows; the last step of an epoch has one, too.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._losses: list[Measured] = []
        self._rate = 0.0
        self._step = 0
        self._batches, self._since = 0, monotonic()

    def on_train_start(self, trainer: pl.Trainer, module: DetectorModule) -> None:
        """Steps are counted from where the run stands."""
        self._step = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, module: DetectorModule) -> None:
        """What happened between epochs was not training."""
        self._batches, self._since = 0, monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: DetectorModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A row every few steps."""
        self._losses += module.watch.take()
        self._batches += 1
        stepped = trainer.global_step > self._step
        self._step = trainer.global_step
        if stepped and (self._step % self._every == 0 or batch_idx + 1 == module.batches_per_epoch):
            images = self._batches * module.config.batch_size * trainer.world_size
            self._rate = images / max(monotonic() - self._since, 1e-9)
            self._log(trainer)
            self._batches, self._since = 0, monotonic()

    def on_train_end(self, trainer: pl.Trainer, module: DetectorModule) -> None:
        """Write what is left."""
        module.watch.poll(wait=True)
        self._losses += module.watch.take()
        self._log(trainer)

    def _log(self, trainer: pl.Trainer) -> None:
        known, self._losses = [m for m in self._losses if m.finite], []
        if not known:
            return
        means, beside = (_means(of) for of in ([m.losses for m in known], [m.beside for m in known]))
        row = {"lr": trainer.optimizers[0].param_groups[0]["lr"], "images_per_second": self._rate}
        row |= {"loss": sum(means.values())} | {f"loss_{name}": value for name, value in means.items()} | beside
        epoch = {"epoch": trainer.current_epoch}
        for logger in trainer.loggers:
            logger.log_metrics({f"train/{name}": value for name, value in row.items()} | epoch, trainer.global_step)


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


class SampleSheets(pl.Callback):
    """Draws a few validation images with what was found beside what is there, after every validation.

    Stands before averaging of weights among the callbacks, so that the images show the weights that were measured.

    Args:
        folder: of the run.
        count: images.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._count = count

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: DetectorModule) -> None:
        """Draw, in the first process."""
        data = module.data
        if not (self._count and trainer.is_global_zero and data.val_set) or trainer.sanity_checking:
            return
        options = {"count": self._count, "threshold": SHOWN_FROM, "proposals": data.val_proposals}
        page = image_sheet(module.detector, data.val_set, **options)
        save(page, sample_path(self._folder, module.epoch_of_last_batch))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("val/samples", page, module.steps_done, dataformats="HWC")
            elif hasattr(logger, "log_image"):
                logger.log_image("val/samples", [page], step=module.steps_done)


def sample_path(folder: Path, epoch: int) -> Path:
    """Where the images after ``epoch`` (from 0) are."""
    return folder / SAMPLES / f"epoch_{epoch + 1:03}.png"
