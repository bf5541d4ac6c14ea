"""Figures of the report, drawn from its numbers alone, and samples drawn on the analyzed images."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy import ndarray
from PIL import Image

from libradet.analysis.collect import SampleVisualization
from libradet.analysis.levels.feature import SIZES
from libradet.analysis.levels.sample import IOU_BIN
from libradet.analysis.report.class_figures import plot_class_losses, plot_classes
from libradet.analysis.report.figure_style import (
    BLUE,
    FAINT,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    PINK,
    dot_plot,
    legend_above,
    new_figure,
    percent_axis,
    report_style,
)
from libradet.analysis.report.labels import SAMPLER_LABELS, level_names, loss_name
from libradet.data.image_io import read_image
from libradet.data.records import Dataset
from libradet.utils.spacing import evenly_spaced

MAX_DRAWN_SAMPLES = 40
"""At most this many negatives of an image are drawn; all of them would cover it."""

_SAMPLE_COLORS = {"near": "#ffa24d", "far": "#b9c0cc"}
_IMAGE_WIDTH_INCHES, _IMAGE_DPI = 5.0, 130

_LOSSES = {"smooth_l1": GRAY, "l1": PINK, "balanced_l1_0.5_1.5": BLUE}


def make_figures(report: dict[str, Any]) -> dict[str, Figure]:
    """Return the figures by name; a figure and the table behind it share a name."""
    features, gradients = report["features"], report["gradients"]
    figures: dict[str, Callable[[], Figure]] = {}
    for samples in report["samples"]:
        stage = samples["stage"]
        figures[f"iou_histogram_{stage}"] = lambda s=samples: plot_iou_histogram(s)
        figures[f"negatives_{stage}"] = lambda s=samples: plot_sampler_shares(s)
        if samples["uses_sampling"]:
            figures[f"positives_{stage}"] = lambda s=samples: plot_positives(s)
        if samples["candidates"] == "proposals" and samples["positive_ious"]["count"]:
            figures[f"positive_ious_{stage}"] = lambda s=samples: plot_positive_ious(s)
    for when in ("before", "after"):
        if features[when]:
            figures[f"similarity_{when}"] = lambda w=when: plot_similarity(features, w)
    figures["levels"] = lambda: plot_level_shares(features, gradients)
    if features.get("gates"):
        figures["gates"] = lambda: plot_gates(features)
    figures["level_sizes"] = lambda: plot_level_sizes(report["levels"], features["strides"])
    figures["loss_curves"] = lambda: plot_loss_curves(report["curves"])
    for errors in report["errors"]:
        if errors["positives"]:
            figures[f"errors_{errors['stage']}"] = lambda e=errors: plot_error_distribution(e["distribution"])
            figures[f"regression_{errors['stage']}"] = lambda e=errors: plot_inlier_shares(e)
    figures["losses"] = lambda: plot_task_gradients(gradients)
    if len(report["classes"]["rows"]) > 1:
        figures["classes"] = lambda: plot_classes(report["classes"]["rows"])
    if report["classes"]["rows"]:
        figures["class_losses"] = lambda: plot_class_losses(report["classes"])
    figures["sizes"] = lambda: plot_sizes(report["sizes"], report["metadata"]["is_proposal_model"])
    if report["error_types"]:
        figures["error_types"] = lambda: plot_error_types(report["error_types"]["types"])
    with report_style():
        return {name: make() for name, make in figures.items()}


def plot_iou_histogram(samples: dict[str, Any]) -> Figure:
    """Plot histograms of the IoU of negatives, as in the paper's Figure 3."""
    figure, (axis,) = new_figure(2.7)
    series = [("hard", ORANGE), ("random", GRAY), ("iou_balanced_paper_3", BLUE)]
    edges, width = np.array(samples["edges"]), 0.27
    at = np.arange(len(edges) - 1)
    for i, (key, color) in enumerate(series):
        heights = samples["negatives"][key]["shares"]
        axis.bar(at + (i - 1) * width, heights, width, color=color, label=SAMPLER_LABELS[key])
    step = 1 if len(edges) < 8 else 2
    axis.set_xticks(np.arange(len(edges))[::step] - 0.5, [f"{edge:g}" for edge in edges[::step]])
    axis.grid(axis="x", visible=False)
    axis.set_xlabel("IoU with the nearest object")
    percent_axis(axis.yaxis)
    legend_above(axis)
    return figure


def plot_positive_ious(samples: dict[str, Any]) -> Figure:
    """Plot the distribution of the IoU of sampled positives, and the uniform one."""
    figure, (axis,) = new_figure(2.3)
    ious, first = samples["positive_ious"], round(samples["edges"][-1] / IOU_BIN)
    edges, shares = np.array(ious["edges"][first:]), ious["shares"][first:]
    at = np.arange(len(shares))
    axis.bar(at, shares, 0.8, color=GRAY)
    axis.axhline(1 / len(shares), color=BLUE, linewidth=1, linestyle=(0, (2, 2)))
    axis.set_xticks(np.arange(len(edges))[::2] - 0.5, [f"{edge:g}" for edge in edges[::2]])
    axis.grid(axis="x", visible=False)
    axis.set_xlabel("IoU of positives with their object")
    percent_axis(axis.yaxis)
    return figure


def plot_sampler_shares(samples: dict[str, Any]) -> Figure:
    """Plot the share of negatives above IoU 0.05 by sampler, and that of hard negatives."""
    shares = {key: row["above_threshold"] for key, row in samples["negatives"].items()}
    rows = {key: share for key, share in shares.items() if share["value"] is not None}
    hidden = {"iou_balanced_mmdet_2", "iou_balanced_mmdet_5"}
    if samples["own_negatives"] in ("all", "random"):
        hidden.add("own")
    order = [key for key in SAMPLER_LABELS if key in rows and key not in hidden]
    figure, (axis,) = new_figure(0.7 + 0.25 * len(order))
    colors = {"hard": ORANGE, "random": GRAY, "own": GREEN, "all": FAINT, "loss_weighted": FAINT, "ohem": PINK}
    values = [(rows[key]["value"], rows[key]["low"], rows[key]["high"]) for key in order]
    dot_plot(axis, [SAMPLER_LABELS[key] for key in order], values, [colors.get(key, BLUE) for key in order])
    if "hard" in rows:
        axis.axvline(rows["hard"]["value"], color=ORANGE, linewidth=1, linestyle=(0, (2, 2)))
    axis.set_xlim(0, 1)
    percent_axis(axis.xaxis)
    axis.set_xlabel("share with IoU > 0.05")
    return figure


def plot_positives(samples: dict[str, Any]) -> Figure:
    """Plot the number of sampled positives per object."""
    figure, (axis,) = new_figure(2.5)
    by_sampler = samples["positives"]["by_sampler"]
    for offset, (key, color) in zip((-0.2, 0.2), (("random", GRAY), ("instance_balanced", BLUE)), strict=True):
        heights = by_sampler[key]["histogram"]
        label = {"random": "random", "instance_balanced": "instance-balanced"}[key]
        axis.bar(np.arange(len(heights)) + offset, heights, 0.4, color=color, label=label)
    last = len(heights) - 1
    axis.set_xticks(range(0, last + 1, 4), [f"{n}" if n < last else f"≥ {n}" for n in range(0, last + 1, 4)])
    axis.grid(axis="x", visible=False)
    axis.set_xlabel("sampled positives per object")
    axis.set_ylabel("objects")
    percent_axis(axis.yaxis)
    legend_above(axis)
    return figure


def plot_similarity(features: dict[str, Any], when: str) -> Figure:
    """Plot the linear CKA of every pair of pyramid levels."""
    figure, (axis,) = new_figure(2.9)
    table, names = features[when]["cka"], level_names(features["strides"])
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
    # Transparent, so that the cells fit both a light and a dark page.
    return Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, facecolor=BLUE, alpha=0.04 + 0.6 * value, linewidth=0)


def plot_level_shares(features: dict[str, Any], gradients: dict[str, Any]) -> Figure:
    """Plot the share of each level in the average, the activations and the gradient."""
    figure, (axis,) = new_figure(2.6)
    names = level_names(features["strides"])
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
    percent_axis(axis.yaxis)
    legend_above(axis, 3 if len(series) == 3 else 2)
    return figure


def plot_gates(features: dict[str, Any]) -> Figure:
    """Plot the learned factor of the average that each level adds, next to the paper's, which is 1."""
    figure, (axis,) = new_figure(2.2)
    names = level_names(features["strides"])
    axis.bar(np.arange(len(names)), features["gates"], 0.5, color=BLUE, label="learned gate")
    axis.axhline(1.0, color=GRAY, linewidth=1, linestyle="--", label="the paper")
    axis.axhline(0.0, color=GRAY, linewidth=0.8)
    axis.set_xticks(range(len(names)), names)
    axis.grid(axis="x", visible=False)
    axis.set_ylabel("factor of the average")
    legend_above(axis, 2)
    return figure


def _normed(values: list[float]) -> list[float]:
    total = sum(values)
    return [value / total if total else 0.0 for value in values]


def plot_level_sizes(levels: dict[str, Any], strides: list[int]) -> Figure:
    """Plot the number of objects and positive anchors by pyramid level and object size."""
    parts = [("objects read by RoIAlign", levels["roi_level_counts"])] if levels["roi_level_counts"] else []
    parts += [("positive anchors", table) for key, table in levels["positives"].items() if key != "roi"]
    figure, axes = new_figure(2.5, len(parts), sharey=True)
    names = level_names(strides)
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


def plot_loss_curves(curves: dict[str, Any]) -> Figure:
    """Plot gradient and loss as functions of the regression error, as in the paper's Figure 5."""
    figure, axes = new_figure(2.5, 2)
    for axis, what in zip(axes, ("gradient", "loss"), strict=True):
        for key, color in _LOSSES.items():
            label = loss_name(key).replace(", α 0.5, γ 1.5", "")
            axis.plot(curves["error"], curves[what][key], color=color, linewidth=1.8, label=label)
        axis.set_title(what)
        axis.set_xlabel("error (in β)")
        axis.set_ylim(0)
        axis.set_xlim(0, 2)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, columnspacing=1.2)
    return figure


def plot_error_distribution(distribution: dict[str, Any]) -> Figure:
    """Plot the distribution of regression errors and of the gradient that they contribute."""
    figure, (axis,) = new_figure(2.8)
    edges = np.array(distribution["edges"])
    center = (edges[:-1] + edges[1:]) / 2
    axis.bar(center, distribution["shares"], np.diff(edges), color=GRAY, alpha=0.55, label="errors")
    for key, color in (("smooth_l1", ORANGE), ("balanced_l1_0.5_1.5", BLUE)):
        label = f"gradient of {loss_name(key)}".replace(", α 0.5, γ 1.5", "")
        axis.stairs(distribution["gradient"][key], edges, color=color, linewidth=1.8, label=label)
    axis.axvline(1, color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
    axis.set_xlim(0, edges[-1])
    axis.set_xticks([0, 0.5, 1, 1.5, 2, 2.5, 3], ["0", "0.5", "1 (β)", "1.5", "2", "2.5", "≥ 3"])
    axis.grid(axis="x", visible=False)
    axis.set_xlabel("absolute error of a delta (in β)")
    percent_axis(axis.yaxis)
    legend_above(axis, 2)
    return figure


def plot_inlier_shares(errors: dict[str, Any]) -> Figure:
    """Plot the share of the gradient that comes from inliers, by loss."""
    rows = {key: loss["share"] for key, loss in errors["losses"].items() if loss["share"]["value"] is not None}
    figure, (axis,) = new_figure(0.8 + 0.26 * len(rows))
    colors = [_LOSSES.get(key, GREEN if key == "own" else BLUE) for key in rows]
    values = [(row["value"], row["low"], row["high"]) for row in rows.values()]
    dot_plot(axis, [loss_name(key) for key in rows], values, colors)
    axis.axvline(errors["inliers"]["value"], color=FAINT, linewidth=1, linestyle=(0, (2, 2)))
    axis.set_xlim(0, 1)
    percent_axis(axis.xaxis)
    axis.set_xlabel("share of the gradient")
    return figure


def plot_task_gradients(gradients: dict[str, Any]) -> Figure:
    """Plot the norm of the gradient of each loss at the feature pyramid."""
    norms = gradients["norms"]["pyramid"]
    figure, (axis,) = new_figure(0.75 + 0.28 * len(norms))
    colors = [ORANGE if "box" in name else BLUE for name in norms]
    axis.barh(range(len(norms)), list(norms.values()), color=colors, height=0.65)
    axis.set_yticks(range(len(norms)), [name.replace("_", " ") for name in norms])
    axis.set_ylim(len(norms) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=5)
    axis.set_xlabel("norm of the gradient at the pyramid, mean of images")
    return figure


def plot_sizes(rows: list[dict[str, Any]], is_proposal_model: bool) -> Figure:
    """Plot AP and AR by object size, of proposals AR alone."""
    figure, (axis,) = new_figure(2.3)
    at = np.arange(len(rows))
    series = [("AR", GRAY, 0.0)] if is_proposal_model else [("AP", BLUE, -0.2), ("AR", GRAY, 0.2)]
    for key, color, offset in series:
        axis.bar(at + offset, [row[key] or 0.0 for row in rows], 0.38, color=color, label=key.replace("AR", "AR100"))
    axis.set_xticks(at, [f"{row['size']}\n{row['objects']:,} objects" for row in rows])
    axis.grid(axis="x", visible=False)
    axis.set_ylim(0, 1)
    legend_above(axis)
    return figure


def plot_error_types(types: dict[str, Any]) -> Figure:
    """Plot the AP50 that each error type costs."""
    figure, (axis,) = new_figure(2.3)
    costs = [error_type["cost"] for error_type in types.values()]
    axis.barh(range(len(types)), costs, color=ORANGE, height=0.65)
    axis.set_yticks(range(len(types)), list(types))
    axis.set_ylim(len(types) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("AP50 gained by fixing this type alone")
    return figure


def draw_samples(
    visualization: SampleVisualization, dataset: Dataset, sampler: str, bit_depth: int
) -> UInt8[ndarray, "_ _ 3"]:
    """Draw at most ``MAX_DRAWN_SAMPLES`` of the negatives that a sampler chose in an image.

    Negatives above IoU 0.05 are orange, others gray, objects white.

    Args:
        bit_depth: of the values in 16-bit files.
    """
    image = dataset.images[visualization.index]
    pixels = read_image(image.path, image.apply_exif, bit_depth=bit_depth).permute(1, 2, 0).numpy()
    boxes, iou = (tensor.numpy() for tensor in visualization.sampled[sampler])
    drawn = evenly_spaced(len(iou), MAX_DRAWN_SAMPLES) if len(iou) else []
    boxes, iou = boxes[drawn], iou[drawn]
    order = iou.argsort(kind="stable")
    with report_style():
        size = (_IMAGE_WIDTH_INCHES, _IMAGE_WIDTH_INCHES * image.height / image.width)
        figure = Figure(figsize=size, dpi=_IMAGE_DPI)
        axis = figure.add_axes((0, 0, 1, 1))
        # At half the brightness thin lines are visible on any image.
        axis.imshow((pixels * 0.55).astype(np.uint8), aspect="auto")
        axis.axis("off")
        for box, value in zip(boxes[order], iou[order], strict=True):
            if value > IOU_BIN:
                axis.add_patch(_outline(box, _SAMPLE_COLORS["near"], width=1.3, alpha=0.9))
            else:
                axis.add_patch(_outline(box, _SAMPLE_COLORS["far"], width=0.7, alpha=0.6))
        for box in visualization.gt_boxes.numpy():
            axis.add_patch(_outline(box, "white", width=2.0, alpha=1.0))
        axis.set_xlim(0, image.width)
        axis.set_ylim(image.height, 0)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=_IMAGE_DPI, metadata={"Software": None})
    return np.asarray(Image.open(file).convert("RGB"))


def count_near_objects(visualization: SampleVisualization, sampler: str) -> tuple[int, int]:
    """Return how many sampled negatives overlap an object by more than 0.05, and how many there are."""
    iou = visualization.sampled[sampler][1]
    return int((iou > IOU_BIN).sum()), len(iou)


def _outline(box: Float[ndarray, " 4"], color: str, width: float, alpha: float) -> Rectangle:
    left, top, right, bottom = box.tolist()
    size = right - left, bottom - top
    return Rectangle((left, top), *size, fill=False, edgecolor=color, linewidth=width, alpha=alpha)
