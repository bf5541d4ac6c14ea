"""Loggers of a run: metrics.csv, TensorBoard, Weights & Biases and MLflow."""

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
from libradet.training.config import TrainConfig
from libradet.training.run_files import METRICS_CSV
from libradet.utils.atomic_io import atomic_write

COLUMNS = ("step", "epoch", "lr", "images_per_second", "loss")
SEPARATELY_INSTALLED = ("wandb", "mlflow")
"""Loggers whose packages are not dependencies of libradet."""


class CSVMetricsLogger(CSVLogger):
    """metrics.csv in the run folder: one row every few training steps, and one per validation.

    Lightning's CSVLogger deletes the file when a run is resumed, and rewrites it when a key is new. Here rows are
    appended immediately, and rows of steps that will be repeated are removed.

    Args:
        folder: the run folder.
        metrics: names of the validation metrics, which become columns.
        step: optimizer steps already done by a run that is resumed.
    """

    def __init__(self, folder: Path, metrics: Sequence[str], step: int = 0) -> None:
        super().__init__(folder, name="", version="")
        self._path = folder / METRICS_CSV
        self._metrics = tuple(metrics)
        self._columns = self._truncate_after(step)

    @property
    def experiment(self) -> "CSVMetricsLogger":
        """Return the logger itself, which Lightning asks for; there is no other object behind it."""
        return self

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Append a row of training or validation; other metrics have no column and are ignored."""
        is_training = "train/loss" in metrics
        if not is_training and any(not name.startswith("val/") for name in metrics if name != "epoch"):
            return
        values = {name.removeprefix("train/").removeprefix("val/"): float(value) for name, value in metrics.items()}
        if self._columns is None:
            terms = [name for name in values if name.startswith(("loss_", "log_variance_"))]
            self._write_header((*COLUMNS, *terms, *self._metrics))
        columns = set(self._columns or ()) - {"step", "epoch"}
        row = {name: f"{value:.8g}" for name, value in values.items() if name in columns}
        self._append({"step": step, "epoch": int(values["epoch"]), **row})

    def has_validation_row(self, step: int) -> bool:
        """Return whether the weights after ``step`` optimizer steps have been validated."""
        return any(row["step"] == str(step) and not row.get("loss") for row in self._read()[1])

    def log_hyperparams(self, params: Any = None) -> None:
        """Do nothing: they are in config.yaml."""

    def save(self) -> None:
        """Do nothing: every row is already written."""

    def finalize(self, status: str) -> None:
        """Do nothing: no file is open."""

    def _write_header(self, columns: tuple[str, ...]) -> None:
        self._columns = columns
        self._append(dict(zip(columns, columns, strict=True)))

    def _append(self, row: dict[str, object]) -> None:
        assert self._columns is not None
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns, restval="").writerow(row)

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        """Return columns and rows of the file, without rows that were cut off when the process was killed."""
        if not self._path.exists():
            return [], []
        with self._path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if None not in row.values() and row["step"].isdigit()]
        return list(reader.fieldnames or []), rows

    @rank_zero_only
    def _truncate_after(self, step: int) -> tuple[str, ...] | None:
        """Remove rows after ``step`` from an earlier metrics.csv; return its columns, None if there is no file."""
        columns, rows = self._read()
        if not columns:
            return None
        with atomic_write(self._path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(row for row in rows if int(row["step"]) <= step)
        return tuple(columns)


class TensorBoardRunLogger(TensorBoardLogger):
    """TensorBoard events in the run folder itself, without a file of hyperparameters.

    Args:
        step: optimizer steps already done by a run that is resumed; events of later steps are purged.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        super().__init__(folder, name="", version="", purge_step=step + 1 if step else None)

    @rank_zero_only
    def save(self) -> None:
        """Flush events to disk; Lightning's logger would add an empty hparams.yaml."""
        self.experiment.flush()


def make_loggers(config: TrainConfig, folder: Path, metrics: Sequence[str], step: int) -> list[Logger]:
    """Return the configured loggers; that of metrics.csv, which resuming relies on, is always the first.

    wandb and mlflow write to where their environment variables point (``WANDB_MODE``, ``MLFLOW_TRACKING_URI``), else
    to the run folder.
    """
    loggers: list[Logger] = [CSVMetricsLogger(folder, metrics, step)]
    for name in dict.fromkeys(config.logger):
        if name == "tensorboard":
            loggers.append(TensorBoardRunLogger(folder, step))
        elif name == "wandb":
            # A stable id, so that a resumed run continues the same wandb run.
            run_id = f"{folder.name}-{zlib.crc32(str(folder.resolve()).encode()):08x}"
            loggers.append(
                WandbLogger(name=folder.name, save_dir=folder, project="libradet", id=run_id, resume="allow")
            )
        elif name == "mlflow":
            # Recent versions of mlflow do not write their file store any more.
            uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').resolve()}"
            loggers.append(MLFlowLogger("libradet", folder.name, tracking_uri=uri))
    return loggers


def check_loggers(names: Sequence[str]) -> None:
    """Raise UserError if a logger needs a package that is not installed; cheap, so it is called first."""
    for name in names:
        if name in SEPARATELY_INSTALLED and find_spec(name) is None:
            raise UserError(f"--logger {name} needs a package that is not installed: pip install {name}")


def refuse_unlogged(config: TrainConfig) -> None:
    """Raise UserError if values are requested that metrics.csv, the only logger, has no column for."""
    requested = [name for name in ("log_lr", "log_device_stats") if getattr(config, name)]
    if requested and set(config.logger) <= {"csv"}:
        raise UserError(
            f"{requested[0]}: metrics.csv has no column for it; "
            "add a logger, such as --logger tensorboard, or leave it out"
        )
