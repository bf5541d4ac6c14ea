"""Plots of a training run: losses, average precision and learning rate."""

import csv
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy import ndarray
from numpy.lib.stride_tricks import sliding_window_view

from libradet.errors import UserError
from libradet.utils.palette import GRID, INK, LINE_COLORS

_LINE_WIDTHS = {"AP": 2.4, "AP50": 1.6, "AP75": 1.6, "mask_AP": 2.4, "mask_AP50": 1.6}


class Series(NamedTuple):
    """Values of one logged metric, and the steps at which they were logged."""

    steps: Float64[ndarray, " T"]
    values: Float64[ndarray, " T"]


def read_metrics(path: Path) -> dict[str, Series]:
    """Read a ``metrics.csv``; keys are the column names without prefix (``train/``, ``val/``).

    Blank cells (not logged at that step) and values that are not finite are skipped.

    Raises:
        UserError: the file does not exist, or has no rows with a ``step``.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; pass the metrics.csv of a training run")
    columns: dict[str, tuple[list[float], list[float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, cell in row.items():
                if name and name != "step" and _is_finite(cell) and _is_finite(row.get("step")):
                    steps, values = columns.setdefault(name.rpartition("/")[2], ([], []))
                    steps.append(float(row["step"]))
                    values.append(float(cell))
    if not columns:
        raise UserError(f"{path}: has no rows yet; the first is written after a few training steps")
    return {name: Series(np.array(steps), np.array(values)) for name, (steps, values) in columns.items()}


def smooth(values: Float64[ndarray, " T"], span: int) -> Float64[ndarray, " T"]:
    """Return the moving average of a moving median over about ``span`` values: without lag, and robust to outliers."""
    radius = min(span // 2, len(values) - 1)
    for reduce in (np.median, np.mean):
        windows = sliding_window_view(np.pad(values, radius, mode="reflect"), 2 * radius + 1)
        values = reduce(windows, axis=1)
    return values


def plot_curves(metrics: Path, output: Path, title: str | None = None) -> Path:
    """Plot the curves of ``metrics.csv`` to the image ``output``; panels without values are omitted.

    Raises:
        UserError: there is nothing to plot.
    """
    series = read_metrics(metrics)
    losses = {n: s for n, s in series.items() if n == "loss" or n.startswith("loss_") or n.endswith("_loss")}
    precisions = {n: series[n] for n in _LINE_WIDTHS if n in series}
    rates = {n: s for n, s in series.items() if n == "lr" or n.startswith("lr-")}
    candidates = ((_plot_losses, losses, 3), (_plot_precisions, precisions, 3), (_plot_learning_rates, rates, 1.4))
    panels = [(plot, curves, height) for plot, curves, height in candidates if curves]
    if not panels:
        raise UserError(f"{metrics}: has neither losses nor AP nor a learning rate; use that of a training run")
    heights = [height for *_, height in panels]
    figure = Figure(figsize=(9, 0.8 + sum(heights)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (plot, curves, _) in zip(axes, panels, strict=True):
        plot(axis, curves)
        axis.grid(color=GRID)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("optimizer step")
    figure.align_ylabels(axes)
    if "epoch" in series:
        _add_epoch_axis(axes[0], series["epoch"])
    figure.suptitle(title or metrics.parent.name, x=0.01, ha="left", fontweight="bold")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)
    return output


def _is_finite(cell: str | None) -> bool:
    try:
        return cell is not None and math.isfinite(float(cell))
    except ValueError:
        return False


def _plot_losses(axis: Axes, losses: dict[str, Series]) -> None:
    names = sorted(losses, key=lambda n: (n != "loss", n))
    colors = iter(LINE_COLORS * len(names))
    for name in names:
        steps, values = losses[name]
        color, width = (INK, 2.2) if name == "loss" else (next(colors), 1.6)
        label = "total" if name == "loss" else name.removeprefix("loss_").removesuffix("_loss").replace("_", " ")
        axis.plot(steps, values, color=color, alpha=0.18, linewidth=0.9)
        axis.plot(steps, smooth(values, len(values) // 20), color=color, linewidth=width, label=label)
    # Large losses of the first steps would compress the rest of the curves.
    values = np.concatenate([s.values for s in losses.values()])
    axis.set_ylim(min(0.0, float(values.min())), 1.1 * float(np.quantile(losses[names[0]].values, 0.98)) or 1.0)
    axis.set_ylabel("loss (smoothed)")
    axis.legend(frameon=False, ncols=min(len(names), 5), loc="upper right")


def _plot_precisions(axis: Axes, precisions: dict[str, Series]) -> None:
    for color, (name, (steps, values)) in zip((INK, *LINE_COLORS), precisions.items(), strict=False):
        best = int(values.argmax())
        label = f"{name.replace('_', ' ')}, best {values[best]:.3f} at step {steps[best]:.0f}"
        axis.plot(steps, values, color=color, linewidth=_LINE_WIDTHS[name], marker="o", markersize=4, label=label)
    axis.set_ylim(0, 1.05)
    axis.set_ylabel("validation precision")
    axis.legend(frameon=False, loc="best")


def _plot_learning_rates(axis: Axes, rates: dict[str, Series]) -> None:
    for color, (name, (steps, values)) in zip(LINE_COLORS * len(rates), rates.items(), strict=False):
        axis.plot(steps, values, color=color, label=name)
    axis.set_ylim(0)
    axis.set_ylabel("learning rate")


def _add_epoch_axis(axis: Axes, epochs: Series) -> None:
    """Label the top axis with epochs, each at its first step; at most twelve of them."""
    starts = {int(e): s for s, e in sorted(zip(*epochs, strict=True), reverse=True)}
    labeled = sorted(starts)[:: -(-len(starts) // 12)]
    top = axis.secondary_xaxis("top")
    top.set_xticks([starts[e] for e in labeled], [str(e + 1) for e in labeled])
    top.set_xlabel("epoch")
    top.spines["top"].set_visible(False)
