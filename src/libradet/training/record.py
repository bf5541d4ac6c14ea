"""The numbers of a run: metrics.csv for everybody, TensorBoard events for those who look on."""

import csv
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import UInt8
from numpy import ndarray
from torch.utils.tensorboard import SummaryWriter

from libradet.files import replacing

COLUMNS = ("step", "epoch", "lr", "images_per_second", "loss")


class Record:
    """Appends to the metrics.csv and to the events of a run folder.

    Args:
        folder: the run folder.
        metrics: names of the measured metrics that metrics.csv has columns for.
        step: optimiser steps already done by the run that continues here; later rows are taken back, as
            those steps will be done again.
    """

    def __init__(self, folder: Path, metrics: Sequence[str], step: int = 0) -> None:
        self._path = folder / "metrics.csv"
        self._metrics = tuple(metrics)
        self._columns = self._take_back(step)
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def training(self, step: int, epoch: int, lr: float, rate: float, losses: dict[str, float]) -> None:
        """A row of training in ``epoch`` (from 0): mean losses since the last row."""
        terms = {f"loss_{name}": value for name, value in losses.items()}
        values = {"lr": lr, "images_per_second": rate, "loss": sum(losses.values()), **terms}
        self._begin((*COLUMNS, *terms, *self._metrics))
        self._row(step, epoch, values)
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def measurement(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """A row of validation at the end of ``epoch`` (from 0)."""
        self._begin((*COLUMNS, *self._metrics))
        self._row(step, epoch, metrics)
        for name, value in metrics.items():
            self._writer.add_scalar(f"val/{name}", value, step)
        self._writer.flush()

    def is_best(self, ap: float | None, name: str = "AP") -> bool:
        """Whether ``ap`` is above all values of ``name`` so far; where there is nothing to find, the latest is best."""
        measured = [float(row[name]) for row in self._read()[1] if row.get(name)]
        return ap is None or not measured or float(_shown(ap)) > max(measured)

    def has_measured(self, step: int) -> bool:
        """Whether the weights after ``step`` optimiser steps have been measured."""
        return any(row["step"] == str(step) and not row.get("loss") for row in self._read()[1])

    def picture(self, name: str, picture: UInt8[ndarray, "H W 3"], step: int) -> None:
        """A picture for TensorBoard."""
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Nothing more will come."""
        self._writer.close()

    def _begin(self, columns: tuple[str, ...]) -> None:
        if self._columns is None:
            self._columns = columns
            self._append(dict(zip(columns, columns, strict=True)))

    def _row(self, step: int, epoch: int, values: dict[str, float]) -> None:
        assert self._columns is not None
        shown = {name: _shown(value) for name, value in values.items() if name in self._columns}
        self._append({"step": step, "epoch": epoch, **shown})

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

    def _take_back(self, step: int) -> tuple[str, ...] | None:
        """Columns of an earlier metrics.csv, whose rows after ``step`` are removed; None if there is none."""
        columns, rows = self._read()
        if not columns:
            return None
        with replacing(self._path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(row for row in rows if int(row["step"]) <= step)
        return tuple(columns)


def _shown(value: float) -> str:
    return f"{value:.8g}"
