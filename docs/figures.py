"""Draws the figures of docs/paper.md with the functions that training calls, and others from the tables of pages."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from libradet.analysis.levels.objective import loss_curves
from libradet.analysis.report.figure_style import (
    BLUE,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    legend_above,
    new_figure,
    percent_axis,
    report_style,
    save_png,
)
from libradet.analysis.report.figures import plot_loss_curves
from libradet.balance import BalancedFeaturePyramid, iou_balanced_priority, random_priority, select

FOLDER = Path(__file__).with_name("figures")
RESULTS = Path(__file__).with_name("results") / "balanced.md"
FINE_TUNING = Path(__file__).with_name("fine_tuning.md")
BINS = 10


def sampling() -> Figure:
    """What random and IoU-balanced sampling take of candidates that mostly lie far from objects."""
    overlaps = (0.5 * torch.distributions.Beta(0.25, 2.0).sample((64, 2000))).clamp(max=0.499)
    everything = torch.ones_like(overlaps, dtype=torch.bool)
    takes = {
        "candidates": (everything.float(), GRAY),
        "random": (random_priority(everything), ORANGE),
        "IoU-balanced, K = 3": (iou_balanced_priority(everything, overlaps, count=384), BLUE),
    }
    figure, (axis,) = new_figure(2.7)
    edges = np.linspace(0, 0.5, BINS + 1)
    for i, (name, (priority, color)) in enumerate(takes.items()):
        index, filled = select(priority, 2000 if name == "candidates" else 384, 2000)
        taken = overlaps.gather(1, index)[filled]
        heights = np.histogram(taken, edges)[0] / len(taken)
        axis.bar(np.arange(BINS) + (i - 1) * 0.27, heights, 0.27, color=color, label=name)
    axis.set_xticks(np.arange(0, BINS + 1, 2) - 0.5, [f"{edge:g}" for edge in edges[::2]])
    axis.grid(axis="x", visible=False)
    axis.set_xlabel("IoU with the nearest object")
    percent_axis(axis.yaxis)
    legend_above(axis)
    return figure


def pyramid() -> Figure:
    """A signal on one level alone, before and after levels are averaged."""
    levels = [torch.zeros(1, 1, 32 // 2**i, 48 // 2**i) for i in range(5)]
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(12), indexing="ij")
    levels[2][0, 0] = torch.exp(-((rows - 3.5) ** 2 + (columns - 5.5) ** 2) / 6)
    with torch.no_grad():
        after = BalancedFeaturePyramid(1, level=2, refine="none")(levels)
    figure, axes = new_figure(1.9, 5)
    for axis in axes:
        axis.remove()
    grid = figure.subplots(2, 5)
    for row, (name, maps) in enumerate((("before", levels), ("after", after))):
        for column, (axis, level) in enumerate(zip(grid[row], maps, strict=True)):
            # The peak of each level is its share of the signal: five levels have a fifth each.
            axis.imshow(level[0, 0], cmap="Blues", vmin=0, vmax=1 if row == 0 else 0.4)
            axis.set(xticks=[], yticks=[])
            axis.grid(visible=False)
            axis.spines[:].set_visible(True)
            if row == 0:
                axis.set_title(f"P{column + 2}")
        grid[row][0].set_ylabel(name)
    return figure


def switches() -> Figure:
    """Gain of each setting as distractors increase."""
    return _gains_of_table("distractors per object", "gain in AP", (GRAY, ORANGE, GREEN, INK, BLUE))


def class_skew() -> Figure:
    """Gain of balanced_faster_rcnn with repeat factors as class frequencies differ more."""
    return _gains_of_table("Zipf exponent", "gain", (INK, ORANGE, BLUE))


def _gains_of_table(property_name: str, label: str, colors: Sequence[str]) -> Figure:
    """Draw a table of the page on balanced_faster_rcnn: a column for each dataset, a row of gains for each color."""
    _, table = RESULTS.read_text(encoding="utf-8").split(f"| {property_name} |", 1)
    header, _, *lines = table.split("\n\n")[0].splitlines()
    numbers = [cell.strip() for cell in header.strip(" |").split("|")]
    figure, (axis,) = new_figure(3.0)
    rows_of_gains = [line for line in lines if "[" in line]
    for row, (line, color) in enumerate(zip(rows_of_gains, colors, strict=True)):
        name, *cells = line.strip("|").split("|")
        gains = np.array([re.findall(r"[+-]\d+\.\d", cell) for cell in cells], dtype=float)
        values, low, high = gains.T
        places = np.arange(len(cells)) + 0.08 * (row - len(colors) // 2)
        axis.errorbar(places, values, (values - low, high - values), fmt="o", color=color, label=name.strip())
    axis.axhline(0, color=GRAY, linewidth=0.8)
    axis.set_xticks(range(len(numbers)), numbers)
    axis.grid(axis="x", visible=False)
    axis.set_xlabel(property_name)
    axis.set_ylabel(label)
    legend_above(axis, columns=2 if len(colors) > 3 else 3)
    return figure


def initialization() -> Figure:
    """AP after each epoch of two starts, mean and standard deviation, from the table of the page on fine-tuning."""
    _, table = FINE_TUNING.read_text(encoding="utf-8").split("| start of `faster_rcnn` |", 1)
    header, _, *lines = table.split("\n\n")[0].splitlines()
    steps = [int(number) for number in re.findall(r"\d+", header)]
    figure, (axis,) = new_figure(2.7)
    for line, color in zip(lines, (ORANGE, BLUE), strict=True):
        name, *cells = line.strip("|").split("|")
        values = np.array([re.findall(r"\d+\.\d", cell) for cell in cells if "±" in cell], dtype=float)
        places = steps[: len(values)]
        axis.errorbar(places, values[:, 0], values[:, 1], marker="o", color=color, label=name.strip(), capsize=3)
    axis.set_xticks(steps)
    axis.set_xlabel("steps")
    axis.set_ylabel("AP")
    legend_above(axis, columns=1)
    return figure


def main() -> None:
    """Write them all, the same to the pixel each time."""
    FOLDER.mkdir(exist_ok=True)
    torch.manual_seed(0)
    with report_style():
        figures = {
            "sampling": sampling(),
            "pyramid": pyramid(),
            "balanced_l1": plot_loss_curves(loss_curves()),
            "switches": switches(),
            "class_skew": class_skew(),
            "initialization": initialization(),
        }
        for name, figure in figures.items():
            save_png(figure, FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()
