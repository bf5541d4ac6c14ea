"""Curves of a training run: losses, average precision and learning rate."""

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

_INK, _GRID = "#1A1A1A", "#E3E3E3"
# Okabe and Ito's, without the yellow that a white page swallows.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_PRECISIONS = {"AP": 2.4, "AP50": 1.6, "AP75": 1.6, "mask_AP": 2.4, "mask_AP50": 1.6}


class Series(NamedTuple):
    """One logged number: at which steps, and its values there."""

    steps: Float64[ndarray, " T"]
    values: Float64[ndarray, " T"]


def read_metrics(path: Path) -> dict[str, Series]:
    """Every number of a ``metrics.csv``, by its column without prefix (``train/``, ``val/``).

    Blank cells are rows in which the number was not logged; values that are not finite are left out.

    Raises:
        UserError: no such file, or no rows with a ``step`` in it.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; a training run writes it")
    collected: dict[str, tuple[list[float], list[float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, cell in row.items():
                if name and name != "step" and _is_number(cell) and _is_number(row.get("step")):
                    steps, values = collected.setdefault(name.rpartition("/")[2], ([], []))
                    steps.append(float(row["step"]))
                    values.append(float(cell))
    if not collected:
        raise UserError(f"{path}: holds no rows yet; a training run writes the first after a few steps")
    return {name: Series(np.array(steps), np.array(values)) for name, (steps, values) in collected.items()}


def smooth(values: Float64[ndarray, " T"], span: int) -> Float64[ndarray, " T"]:
    """Mean of medians over about ``span`` neighbors: without lag, and untouched by single wild values."""
    reach = min(span // 2, len(values) - 1)
    for reduce in (np.median, np.mean):
        windows = sliding_window_view(np.pad(values, reach, mode="reflect"), 2 * reach + 1)
        values = reduce(windows, axis=1)
    return values


def plot_curves(metrics: Path, out: Path, title: str | None = None) -> Path:
    """Draw the curves of ``metrics.csv`` as an image at ``out``; panels for which nothing was logged are left out.

    Raises:
        UserError: there is nothing to draw.
    """
    series = read_metrics(metrics)
    losses = {n: s for n, s in series.items() if n == "loss" or n.startswith("loss_") or n.endswith("_loss")}
    scores = {n: series[n] for n in _PRECISIONS if n in series}
    rates = {n: s for n, s in series.items() if n == "lr" or n.startswith("lr-")}
    panels = [(p, s, h) for p, s, h in ((_losses, losses, 3), (_scores, scores, 3), (_rates, rates, 1.4)) if s]
    if not panels:
        raise UserError(f"{metrics}: holds neither losses nor AP nor a learning rate")
    figure = Figure(figsize=(9, 0.8 + sum(h for *_, h in panels)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=[h for *_, h in panels])[:, 0]
    for axis, (panel, numbers, _) in zip(axes, panels, strict=True):
        panel(axis, numbers)
        axis.grid(color=_GRID)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("optimizer step")
    figure.align_ylabels(axes)
    if "epoch" in series:
        _mark_epochs(axes[0], series["epoch"])
    figure.suptitle(title or metrics.parent.name, x=0.01, ha="left", fontweight="bold")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    return out


def _is_number(cell: str | None) -> bool:
    try:
        return cell is not None and math.isfinite(float(cell))
    except ValueError:
        return False


def _losses(axis: Axes, losses: dict[str, Series]) -> None:
    names = sorted(losses, key=lambda n: (n != "loss", n))
    colors = iter(_COLORS * len(names))
    for name in names:
        steps, values = losses[name]
        color, width = (_INK, 2.2) if name == "loss" else (next(colors), 1.6)
        label = "total" if name == "loss" else name.removeprefix("loss_").removesuffix("_loss").replace("_", " ")
        axis.plot(steps, values, color=color, alpha=0.18, linewidth=0.9)
        axis.plot(steps, smooth(values, len(values) // 20), color=color, linewidth=width, label=label)
    # A few wild first steps would press everything else flat.
    values = np.concatenate([s.values for s in losses.values()])
    axis.set_ylim(min(0.0, float(values.min())), 1.1 * float(np.quantile(losses[names[0]].values, 0.98)) or 1.0)
    axis.set_ylabel("loss (smoothed)")
    axis.legend(frameon=False, ncols=min(len(names), 5), loc="upper right")


def _scores(axis: Axes, scores: dict[str, Series]) -> None:
    for color, (name, (steps, values)) in zip((_INK, *_COLORS), scores.items(), strict=False):
        best = int(values.argmax())
        label = f"{name.replace('_', ' ')}, best {values[best]:.3f} at step {steps[best]:.0f}"
        axis.plot(steps, values, color=color, linewidth=_PRECISIONS[name], marker="o", markersize=4, label=label)
    axis.set_ylim(0, 1.05)
    axis.set_ylabel("validation precision")
    axis.legend(frameon=False, loc="best")


def _rates(axis: Axes, rates: dict[str, Series]) -> None:
    for color, (name, (steps, values)) in zip(_COLORS * len(rates), rates.items(), strict=False):
        axis.plot(steps, values, color=color, label=name)
    axis.set_ylim(0)
    axis.set_ylabel("learning rate")


def _mark_epochs(axis: Axes, epochs: Series) -> None:
    """Epochs along the top, where each begins; at most twelve of them."""
    starts = {int(e): s for s, e in sorted(zip(*epochs, strict=True), reverse=True)}
    shown = sorted(starts)[:: -(-len(starts) // 12)]
    top = axis.secondary_xaxis("top")
    top.set_xticks([starts[e] for e in shown], [str(e + 1) for e in shown])
    top.set_xlabel("epoch")
    top.spines["top"].set_visible(False)
