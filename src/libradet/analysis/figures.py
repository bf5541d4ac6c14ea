"""The figures of the report, each drawn from the report's numbers alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullLocator

from libradet.analysis.feature_level import SIZES
from libradet.analysis.figure_style import (
    BLUE,
    FAINT,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    PINK,
    as_percent,
    dots,
    legend_above,
    new,
    style,
)
from libradet.analysis.words import SAMPLERS, levels, loss_name

_LOSSES = {"smooth_l1": GRAY, "l1": PINK, "balanced_l1_0.5_1.5": BLUE}


def make_figures(report: dict[str, Any]) -> dict[str, Figure]:
    """Figures by name, which is that of their table."""
    features, gradients = report["features"], report["gradients"]
    figures: dict[str, Callable[[], Figure]] = {}
    for samples in report["samples"]:
        stage = samples["stage"]
        figures[f"overlaps_{stage}"] = lambda s=samples: overlaps(s)
        figures[f"negatives_{stage}"] = lambda s=samples: shares(s)
        if samples["samples"]:
            figures[f"positives_{stage}"] = lambda s=samples: positives(s)
    for when in ("before", "after"):
        if features[when]:
            figures[f"similarity_{when}"] = lambda w=when: similarity(features, w)
    figures["levels"] = lambda: level_shares(features, gradients)
    figures["level_sizes"] = lambda: level_sizes(report["levels"], features["strides"])
    figures["loss_curves"] = lambda: curves(report["curves"])
    for errors in report["errors"]:
        if errors["positives"]:
            figures[f"errors_{errors['stage']}"] = lambda e=errors: distribution(e["distribution"])
            figures[f"regression_{errors['stage']}"] = lambda e=errors: inliers(e)
    figures["losses"] = lambda: tasks(gradients)
    if len(report["classes"]["rows"]) > 1:
        figures["classes"] = lambda: classes(report["classes"]["rows"])
    figures["sizes"] = lambda: sizes(report["sizes"])
    if report["mistakes"]:
        figures["mistakes"] = lambda: mistakes(report["mistakes"]["kinds"])
    with style():
        return {name: make() for name, make in figures.items()}


def overlaps(samples: dict[str, Any]) -> Figure:
    """Histograms of IoU, as the paper's Figure 3."""
    figure, (axis,) = new(2.7)
    series = [("hard", ORANGE), ("random", GRAY), ("iou_balanced_paper_3", BLUE)]
    edges, width = np.array(samples["edges"]), 0.27
    at = np.arange(len(edges) - 1)
    for i, (key, color) in enumerate(series):
        heights = samples["negatives"][key]["shares"]
        axis.bar(at + (i - 1) * width, heights, width, color=color, label=SAMPLERS[key].replace("negatives", "ones"))
    step = 1 if len(edges) < 8 else 2
    axis.set_xticks(np.arange(len(edges))[::step] - 0.5, [f"{edge:g}" for edge in edges[::step]])
    axis.grid(axis="x", visible=False)
    axis.set_xlabel("IoU with the nearest object")
    as_percent(axis.yaxis)
    legend_above(axis)
    return figure


def shares(samples: dict[str, Any]) -> Figure:
    """Share above IoU 0.05 of each sampler, beside that of hard negatives."""
    rows = {key: row["above"] for key, row in samples["negatives"].items() if row["above"]["value"] is not None}
    hidden = {"iou_balanced_mmdet_2", "iou_balanced_mmdet_5"}
    if samples["own_negatives"] in ("all", "random"):
        hidden.add("own")
    order = [key for key in SAMPLERS if key in rows and key not in hidden]
    figure, (axis,) = new(0.7 + 0.25 * len(order))
    colors = {"hard": ORANGE, "random": GRAY, "own": GREEN, "all": FAINT, "by_loss": FAINT, "hardest": PINK}
    values = [(rows[key]["value"], rows[key]["low"], rows[key]["high"]) for key in order]
    dots(axis, [SAMPLERS[key] for key in order], values, [colors.get(key, BLUE) for key in order])
    if "hard" in rows:
        axis.axvline(rows["hard"]["value"], color=ORANGE, linewidth=1, linestyle=(0, (2, 2)))
    axis.set_xlim(0, 1)
    as_percent(axis.xaxis)
    axis.set_xlabel("share with IoU > 0.05")
    return figure


def positives(samples: dict[str, Any]) -> Figure:
    """How many positives an object gets."""
    figure, (axis,) = new(2.5)
    found = samples["positives"]["by_sampler"]
    for offset, (key, color) in zip((-0.2, 0.2), (("random", GRAY), ("instance_balanced", BLUE)), strict=True):
        heights = found[key]["histogram"]
        label = {"random": "random", "instance_balanced": "instance-balanced"}[key]
        axis.bar(np.arange(len(heights)) + offset, heights, 0.4, color=color, label=label)
    last = len(heights) - 1
    axis.set_xticks(range(0, last + 1, 4), [f"{n}" if n < last else f"≥ {n}" for n in range(0, last + 1, 4)])
    axis.grid(axis="x", visible=False)
    axis.set_xlabel("sampled positives of an object")
    axis.set_ylabel("objects")
    as_percent(axis.yaxis)
    legend_above(axis)
    return figure


def similarity(features: dict[str, Any], when: str) -> Figure:
    """Linear CKA of every pair of levels."""
    figure, (axis,) = new(2.9)
    table, names = features[when]["cka"], levels(features["strides"])
    for y, row in enumerate(table):
        for x, value in enumerate(row):
            axis.add_patch(_cell(x, y, value))
            axis.text(x, y, f"{value:.2f}", ha="center", va="center", color=INK, fontsize=9)
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xticks(range(len(names)), names)
    axis.set_yticks(range(len(names)), names)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    axis.set_aspect("equal")
    return figure


def _cell(x: int, y: int, value: float) -> Rectangle:
    # Transparent, so that a dark page shines through where a light one does.
    return Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, facecolor=BLUE, alpha=0.04 + 0.6 * value, linewidth=0)


def level_shares(features: dict[str, Any], gradients: dict[str, Any]) -> Figure:
    """What each level brings to the average and gets of the gradient."""
    figure, (axis,) = new(2.6)
    names = levels(features["strides"])
    series = [
        ("average of all", features["before"]["integration"], GRAY),
        ("activation", _normed(features["before"]["rms"]), GREEN),
        ("gradient", _normed(gradients["levels"]["before"]), ORANGE),
    ]
    if features["balanced"]:
        series.append(("gradient, balanced", _normed(gradients["levels"]["after"]), BLUE))
    width = 0.8 / len(series)
    for i, (label, values, color) in enumerate(series):
        axis.bar(np.arange(len(names)) + (i - (len(series) - 1) / 2) * width, values, width, color=color, label=label)
    axis.set_xticks(range(len(names)), names)
    axis.grid(axis="x", visible=False)
    axis.set_ylabel("share of a level")
    as_percent(axis.yaxis)
    legend_above(axis, 3 if len(series) == 3 else 2)
    return figure


def _normed(values: list[float]) -> list[float]:
    total = sum(values)
    return [value / total if total else 0.0 for value in values]


def level_sizes(found: dict[str, Any], strides: list[int]) -> Figure:
    """Which level serves objects of which size."""
    parts = [("objects read by 2nd stage", found["reads"])] if found["reads"] else []
    parts += [("positive anchors", table) for key, table in found["positives"].items() if key != "roi"]
    figure, axes = new(2.5, len(parts), sharey=True)
    names = levels(strides)
    for axis, (title, table) in zip(axes, parts, strict=True):
        start = np.zeros(len(names))
        for kind, color in enumerate((ORANGE, GRAY, BLUE)):
            counts = np.array([row[kind] for row in table])
            axis.barh(range(len(names)), counts, left=start, color=color, label=SIZES[kind], height=0.7)
            start += counts
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="y", length=0)
        axis.locator_params(axis="x", nbins=4)
        axis.set_xlabel(title)
    legend_above(axes[0])
    return figure


def curves(found: dict[str, Any]) -> Figure:
    """Gradient and loss over the error, as the paper's Figure 5."""
    figure, axes = new(2.5, 2)
    for axis, what in zip(axes, ("gradient", "loss"), strict=True):
        for key, color in _LOSSES.items():
            label = loss_name(key).replace(", α 0.5, γ 1.5", "")
            axis.plot(found["error"], found[what][key], color=color, linewidth=1.8, label=label)
        axis.set_title(what)
        axis.set_xlabel("error (in β)")
        axis.set_ylim(0)
        axis.set_xlim(0, 2)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, columnspacing=1.2)
    return figure


def distribution(found: dict[str, Any]) -> Figure:
    """Where the deltas of positives lie, and where the gradient comes from."""
    figure, (axis,) = new(2.8)
    edges = np.array(found["edges"])
    center = (edges[:-1] + edges[1:]) / 2
    axis.bar(center, found["shares"], np.diff(edges), color=GRAY, alpha=0.55, label="errors")
    for key, color in (("smooth_l1", ORANGE), ("balanced_l1_0.5_1.5", BLUE)):
        label = f"gradient of {loss_name(key)}".replace(", α 0.5, γ 1.5", "")
        axis.stairs(found["gradient"][key], edges, color=color, linewidth=1.8, label=label)
    axis.axvline(1, color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
    axis.set_xlim(0, edges[-1])
    axis.set_xticks([0, 0.5, 1, 1.5, 2, 2.5, 3], ["0", "0.5", "1 (β)", "1.5", "2", "2.5", "≥ 3"])
    axis.grid(axis="x", visible=False)
    axis.set_xlabel("size of a delta's error (in β)")
    as_percent(axis.yaxis)
    legend_above(axis, 2)
    return figure


def inliers(errors: dict[str, Any]) -> Figure:
    """Share of the gradient that inliers bring under each loss."""
    rows = {key: loss["share"] for key, loss in errors["losses"].items() if loss["share"]["value"] is not None}
    figure, (axis,) = new(0.8 + 0.26 * len(rows))
    colors = [_LOSSES.get(key, GREEN if key == "own" else BLUE) for key in rows]
    values = [(row["value"], row["low"], row["high"]) for row in rows.values()]
    dots(axis, [loss_name(key) for key in rows], values, colors)
    axis.axvline(errors["inliers"]["value"], color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
    axis.set_xlim(0, 1)
    as_percent(axis.xaxis)
    axis.set_xlabel("share of the gradient")
    return figure


def tasks(gradients: dict[str, Any]) -> Figure:
    """Gradient that each loss sends into the pyramid."""
    norms = gradients["norms"]["pyramid"]
    figure, (axis,) = new(0.75 + 0.28 * len(norms))
    colors = [ORANGE if "box" in name else BLUE for name in norms]
    axis.barh(range(len(norms)), list(norms.values()), color=colors, height=0.65)
    axis.set_yticks(range(len(norms)), [name.replace("_", " ") for name in norms])
    axis.set_ylim(len(norms) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=5)
    axis.set_xlabel("norm of the gradient on the pyramid, mean of images")
    return figure


def classes(rows: list[dict[str, Any]]) -> Figure:
    """AP over how many objects a class has."""
    figure, (axis,) = new(2.7)
    found = [row for row in rows if row["objects"] and row["AP"] is not None]
    axis.plot([row["objects"] for row in found], [row["AP"] for row in found], "o", color=BLUE, markersize=6)
    for row in found if len(found) <= 20 else ():
        axis.annotate(row["class"], (row["objects"], row["AP"]), (5, 4), textcoords="offset points", fontsize=9)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.margins(x=0.18)
    axis.set_ylim(0, 1)
    axis.set_xlabel("objects of the class")
    axis.set_ylabel("AP")
    return figure


def sizes(rows: list[dict[str, Any]]) -> Figure:
    """AP by size."""
    figure, (axis,) = new(2.3)
    at = np.arange(len(rows))
    for offset, (key, color) in zip((-0.2, 0.2), (("AP", BLUE), ("AR", GRAY)), strict=True):
        axis.bar(at + offset, [row[key] or 0.0 for row in rows], 0.38, color=color, label=key)
    axis.set_xticks(at, [f"{row['size']}\n{row['objects']:,} objects" for row in rows])
    axis.grid(axis="x", visible=False)
    axis.set_ylim(0, 1)
    legend_above(axis)
    return figure


def mistakes(kinds: dict[str, Any]) -> Figure:
    """AP50 that each kind of error costs."""
    figure, (axis,) = new(2.3)
    costs = [kind["cost"] for kind in kinds.values()]
    axis.barh(range(len(kinds)), costs, color=ORANGE, height=0.65)
    axis.set_yticks(range(len(kinds)), list(kinds))
    axis.set_ylim(len(kinds) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("AP50 gained if this kind alone were mended")
    return figure
