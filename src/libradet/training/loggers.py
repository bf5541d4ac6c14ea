"""Where the numbers of a run go: metrics.csv for everybody, and the trackers that people look at."""

import csv
import os
import zlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from libradet.errors import UserError
from libradet.training.settings import TrainConfig
from libradet.utils.atomic_io import atomic_write

COLUMNS = ("step", "epoch", "lr", "images_per_second", "loss")
CSV = "metrics.csv"
TRACKERS = ("wandb", "mlflow")
"""Loggers whose packages are installed on their own."""


class RunCSV(CSVLogger):
    """metrics.csv in the run folder: a row for every few steps, and one for every validation.

    Lightning's own deletes the file of a run that is resumed, and rewrites it in place when a key is new; here rows
    are appended at once, and those of steps that will be done again are taken back.

    Args:
        folder: the run folder.
        metrics: names of the measured metrics that the file has columns for.
        step: optimizer steps already done by the run that continues here.
    """

    def __init__(self, folder: Path, metrics: Sequence[str], step: int = 0) -> None:
        super().__init__(folder, name="", version="")
        self._path = folder / CSV
        self._metrics = tuple(metrics)
        self._columns = self._take_back(step)

    @property
    def experiment(self) -> "RunCSV":
        """Lightning asks for it; there is nothing behind this logger but the file."""
        return self

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Append a row of training or of a validation; what else is logged has no column here."""
        trained = "train/loss" in metrics
        if not trained and any(not name.startswith("val/") for name in metrics if name != "epoch"):
            return
        values = {name.removeprefix("train/").removeprefix("val/"): float(value) for name, value in metrics.items()}
        if self._columns is None:
            terms = [name for name in values if name.startswith(("loss_", "log_variance_"))]
            self._begin((*COLUMNS, *terms, *self._metrics))
        columns = set(self._columns or ()) - {"step", "epoch"}
        shown = {name: _shown(value) for name, value in values.items() if name in columns}
        self._append({"step": step, "epoch": int(values["epoch"]), **shown})

    def has_measured(self, step: int) -> bool:
        """Whether the weights after ``step`` optimizer steps have been measured."""
        return any(row["step"] == str(step) and not row.get("loss") for row in self._read()[1])

    def log_hyperparams(self, params: Any = None) -> None:
        """They are in config.yaml."""

    def save(self) -> None:
        """Every row is written already."""

    def finalize(self, status: str) -> None:
        """Nothing is left open."""

    def _begin(self, columns: tuple[str, ...]) -> None:
        self._columns = columns
        self._append(dict(zip(columns, columns, strict=True)))

    def _append(self, row: dict[str, object]) -> None:
        assert self._columns is not None
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns, restval="").writerow(row)

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """Columns and rows as they are in the file; rows that were cut off by a kill are left out."""
        if not self._path.exists():
            return [], []
        with self._path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if None not in row.values() and row["step"].isdigit()]
        return list(reader.fieldnames or []), rows

    @rank_zero_only
    def _take_back(self, step: int) -> tuple[str, ...] | None:
        """Columns of an earlier metrics.csv, whose rows after ``step`` are removed; None if there is none."""
        columns, rows = self._read()
        if not columns:
            return None
        with atomic_write(self._path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(row for row in rows if int(row["step"]) <= step)
        return tuple(columns)


class RunEvents(TensorBoardLogger):
    """TensorBoard events in the run folder itself; hyper-parameters are in its config.yaml.

    Args:
        step: optimizer steps already done by the run that continues here; later ones are taken back.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        super().__init__(folder, name="", version="", purge_step=step + 1 if step else None)

    @rank_zero_only
    def save(self) -> None:
        """Events are on the disk; Lightning's own adds a hparams.yaml without anything in it."""
        self.experiment.flush()


def make_loggers(config: TrainConfig, folder: Path, metrics: Sequence[str], step: int) -> list[Logger]:
    """The loggers that a configuration names; metrics.csv, which a run keeps its own books in, is always first.

    wandb and mlflow go where their environment variables say (``WANDB_MODE``, ``MLFLOW_TRACKING_URI``), else into the
    run folder.

    """
    loggers: list[Logger] = [RunCSV(folder, metrics, step)]
    for name in dict.fromkeys(config.logger):
        if name == "tensorboard":
            loggers.append(RunEvents(folder, step))
        elif name != "csv":
            loggers.append(_tracker(name, folder))
    return loggers


def check_loggers(names: Sequence[str]) -> None:
    """Raises UserError if one needs a package that is not installed; cheap, so that it comes before all else."""
    for name in names:
        if name in TRACKERS and find_spec(name) is None:
            raise UserError(f"--logger {name} needs a package that is not installed: pip install {name}")


def _tracker(name: str, folder: Path) -> Logger:
    if name == "wandb":
        # The same run goes on where training is resumed.
        options = {"id": _identity(folder), "resume": "allow"}
        return WandbLogger(name=folder.name, save_dir=folder, project="libradet", **options)
    # Its folders of files are no longer written.
    where = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').resolve()}"
    return MLFlowLogger("libradet", folder.name, tracking_uri=where)


def _identity(folder: Path) -> str:
    return f"{folder.name}-{zlib.crc32(str(folder.resolve()).encode()):08x}"


def _shown(value: float) -> str:
    return f"{value:.8g}"
