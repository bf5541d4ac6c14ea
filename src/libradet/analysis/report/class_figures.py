"""Figures of the class level, readable with one class and with many."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import BboxBase

from libradet.analysis.levels.classes import frequency
from libradet.analysis.report.figure_style import BLUE, GRAY, ORANGE, PAPER, legend_above, new_figure, percent_axis

_MAX_LABELED_CLASSES, _MAX_BARS, _MAX_NAME = 12, 8, 20
"""Classes labeled in a figure, drawn as bars of their own, and the length of a name, at most."""

_LABEL_OFFSETS = (4, -10, 15, 26)
"""Heights in points above the dot at which a class is written, by preference."""


def plot_classes(rows: list[dict[str, Any]]) -> Figure:
    """Plot AP against the frequency of each class; of many classes, those at the ends of both axes are labeled."""
    figure, (axis,) = new_figure(2.9)
    measured = [row for row in rows if frequency(row) and row["AP"] is not None]
    size = 6 if len(measured) <= _MAX_LABELED_CLASSES else 4
    labeled = _labeled(measured)
    for row in measured:
        axis.plot(frequency(row), row["AP"], "o", color=BLUE if row in labeled else GRAY, markersize=size)
    axis.set_xscale("log")
    counts = [frequency(row) for row in measured] or [1]
    subs = (1, 2, 5) if max(counts) <= 50 * min(counts) else (1,)
    axis.xaxis.set_major_locator(LogLocator(subs=subs))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.margins(x=0.18)
    # The upper limit follows a weak detector's AP: its dots would lie on top of each other.
    axis.set_ylim(0, min(1.0, 1.2 * max((row["AP"] for row in measured), default=0.0)) or 1.0)
    axis.set_xlabel("objects of the class" + (", training split" if rows[0]["train_objects"] is not None else ""))
    axis.set_ylabel("AP")
    _label_classes(axis, labeled)
    return figure


def _labeled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the classes to label: all of few, else the most and least frequent and those of highest and lowest AP."""
    if len(rows) <= _MAX_LABELED_CLASSES:
        return rows
    by_precision = sorted(rows, key=lambda row: row["AP"])
    chosen = {row["class"] for row in (*rows[:2], *rows[-2:], *by_precision[:2], *by_precision[-2:])}
    return [row for row in rows if row["class"] in chosen]


def _label_classes(axis: Axes, rows: list[dict[str, Any]]) -> None:
    """Write classes next to their dots, those of highest AP first, where none is on another or below an AP of 0."""
    assert isinstance(axis.figure, Figure)
    axis.figure.draw_without_rendering()  # sets the positions
    used: list[BboxBase] = []
    for row in sorted(rows, key=lambda row: -row["AP"]):
        for offset in _LABEL_OFFSETS:
            label = _label_class(axis, row, offset)
            place = label.get_window_extent()
            if place.y0 >= axis.bbox.y0 and not place.count_overlaps(used):
                used.append(place)
                break
            label.remove()


def _label_class(axis: Axes, row: dict[str, Any], offset: int) -> Annotation:
    """Write a class on the side of its dot that is nearer to the axis's middle, `offset` points above it."""
    low, high = axis.get_xlim()
    is_right = frequency(row) > (low * high) ** 0.5
    name = row["class"] if len(row["class"]) <= _MAX_NAME else row["class"][: _MAX_NAME - 3] + "..."
    at, side = (frequency(row), row["AP"]), "right" if is_right else "left"
    # Other dots below the name are covered.
    box = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.5}
    place = (-6 if is_right else 6, offset)
    return axis.annotate(name, at, place, textcoords="offset points", fontsize=9, ha=side, bbox=box)


def plot_class_losses(classes: dict[str, Any]) -> Figure:
    """Plot the shares of samples, loss and gradient of the most frequent classes, of all others and the background."""
    rows = [(row["class"], row) for row in classes["rows"]]
    others = rows[_MAX_BARS:] if len(rows) > _MAX_BARS + 1 else []
    bars = [*rows[: len(rows) - len(others)]]
    if others:
        keys = ("samples", "loss", "gradient")
        bars.append((f"{len(others)} rarer classes", {k: sum(row[k] or 0 for _, row in others) for k in keys}))
    bars.append(("background", classes["background"]))
    total = sum(row["samples"] for _, row in bars) or 1
    figure, (axis,) = new_figure(0.9 + 0.42 * len(bars))
    at = np.arange(len(bars))
    series = [("samples", GRAY, total), ("loss", BLUE, 1), ("gradient", ORANGE, 1)]
    for i, (key, color, unit) in enumerate(series):
        values = [(row[key] or 0) / unit for _, row in bars]
        axis.barh(at + (i - 1) * 0.26, values, 0.26, color=color, label=key)
    axis.set_yticks(at, [name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 3] + "..." for name, _ in bars])
    axis.set_ylim(len(bars) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    percent_axis(axis.xaxis)
    legend_above(axis)
    return figure
