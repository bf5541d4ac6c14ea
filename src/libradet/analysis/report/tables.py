"""The report's numbers as tables: those behind each figure, on the page and as CSV."""

import csv
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict

from libradet.analysis.levels.feature import SIZES
from libradet.analysis.report.labels import POSITIVE_SAMPLER_LABELS, SAMPLER_LABELS, level_names, loss_name

Cell = str | int | float | None

MAX_MATRIX_CLASSES, MAX_LISTED_CONFUSIONS = 20, 30
"""Classes of a confusion matrix on the page, and entries of the list that replaces a larger one, at most."""


class Table(TypedDict):
    """Attributes:
    columns: headings.
    formats: how the page prints each column, see :func:`libradet.analysis.report.labels.format_number`, or "text".
    rows: the cells at full precision.
    """

    columns: list[str]
    formats: list[str]
    rows: list[list[Cell]]


def make_tables(report: dict[str, Any]) -> dict[str, Table]:
    """Return all tables by name; a table, its CSV file and its figure share a name."""
    tables: dict[str, Table] = {}
    for samples in report["samples"]:
        tables[f"negatives_{samples['stage']}"] = _negatives(samples)
        tables[f"positives_{samples['stage']}"] = _positives(samples)
        tables[f"positive_ious_{samples['stage']}"] = _positive_ious(samples["positive_ious"])
    tables |= _features(report["features"], report["gradients"])
    tables["level_sizes"] = _level_sizes(report["levels"], report["features"]["strides"])
    tables["loss_curves"] = _curves(report["curves"])
    for errors in report["errors"]:
        tables[f"regression_{errors['stage']}"] = _regression(errors)
        tables[f"errors_{errors['stage']}"] = _distribution(errors["distribution"])
    tables |= _gradients(report["gradients"])
    if report["classes"]["rows"]:
        tables |= _classes(report["classes"])
    tables["sizes"] = _sizes(report["sizes"], report["metadata"]["is_proposal_model"])
    if report["error_types"]:
        rows = [[name, entry["count"], entry["cost"]] for name, entry in report["error_types"]["types"].items()]
        tables["error_types"] = _table(["error type", "count", "cost in AP50"], "text count decimal", rows)
    return tables


def write_tables(tables: dict[str, Table], folder: Path) -> None:
    """Write each table as a CSV file at full precision."""
    folder.mkdir(parents=True)
    for name, table in tables.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(table["columns"])
            writer.writerows(table["rows"])


def _table(columns: list[str], formats: str, rows: Iterable[list[Cell]]) -> Table:
    return Table(columns=columns, formats=formats.split(), rows=list(rows))


def _bins(edges: list[float]) -> list[str]:
    return [f"{a:g}–{b:g}" for a, b in pairwise(edges)]


def _negatives(samples: dict[str, Any]) -> Table:
    bins = [f"IoU {name}" for name in _bins(samples["edges"])]
    rows = []
    for key, name in SAMPLER_LABELS.items():
        row = samples["negatives"][key]
        above = row["above_threshold"]
        rows.append([name, row["count"], above["value"], above["low"], above["high"], *row["shares"]])
    columns = ["negatives", "count", "IoU > 0.05", "95 % low", "95 % high", *bins]
    return _table(columns, "text count percent percent percent" + " percent" * len(bins), rows)


def _positives(samples: dict[str, Any]) -> Table:
    keys = ("total", "mean", "median", "without", "top_tenth", "small", "medium", "large")
    by_sampler = samples["positives"]["by_sampler"]
    labels = {key: label for key, label in POSITIVE_SAMPLER_LABELS.items() if key in by_sampler}
    rows = [[label, *(by_sampler[key][k] for k in keys)] for key, label in labels.items()]
    columns = ["positives", "count", "mean per object", "median", "objects without", "top 10 % of objects"]
    columns += ["mean, small", "mean, medium", "mean, large"]
    return _table(columns, "text count decimal decimal percent percent decimal decimal decimal", rows)


def _positive_ious(ious: dict[str, Any]) -> Table:
    rows = [[f"IoU {name}", share] for name, share in zip(_bins(ious["edges"]), ious["shares"], strict=True)]
    return _table(["sampled positives", "share"], "text percent", rows)


def _features(features: dict[str, Any], gradients: dict[str, Any]) -> dict[str, Table]:
    names = level_names(features["strides"])
    tables = {}
    for when in ("before", "after"):
        if features[when]:
            rows = [[name, *row] for name, row in zip(names, features[when]["cka"], strict=True)]
            tables[f"similarity_{when}"] = _table(["level", *names], "text" + " decimal" * len(names), rows)
    columns = ["level", "mean similarity", "share of the average", "activation (RMS)", "gradient norm"]
    formats = "text decimal percent small small"
    parts = [features["before"]["others"], features["before"]["integration"], features["before"]["rms"]]
    parts.append(gradients["levels"]["before"])
    if features["after"]:
        columns += ["balanced: mean similarity", "balanced: activation", "balanced: gradient norm"]
        formats += " decimal small small"
        parts += [features["after"]["others"], features["after"]["rms"], gradients["levels"]["after"]]
    if features.get("gates"):
        gates = zip(names, features["gates"], strict=True)
        tables["gates"] = _table(["level", "gate"], "text decimal", [list(row) for row in gates])
    rows = [list(row) for row in zip(names, *parts, strict=True)]
    return tables | {"levels": _table(columns, formats, rows)}


def _level_sizes(levels: dict[str, Any], strides: list[int]) -> Table:
    parts = {"objects read by RoIAlign": levels["roi_level_counts"]} if levels["roi_level_counts"] else {}
    parts |= {
        ("positive proposals" if key == "roi" else "positive anchors"): table
        for key, table in levels["positives"].items()
    }
    columns = ["level", *(f"{what}, {size}" for what in parts for size in SIZES)]
    rows = [[name, *(n for table in parts.values() for n in table[i])] for i, name in enumerate(level_names(strides))]
    return _table(columns, "text" + " count" * (len(columns) - 1), rows)


def _sizes(rows: list[dict[str, Any]], is_proposal_model: bool) -> Table:
    metrics = {"AR": "AR100"} if is_proposal_model else {"AP": "AP", "AR": "AR100"}
    cells = [[row["size"], row["objects"], *(row[key] for key in metrics)] for row in rows]
    return _table(["size", "objects", *metrics.values()], "text count" + " decimal" * len(metrics), cells)


def _classes(classes: dict[str, Any]) -> dict[str, Table]:
    keys = ("class", "train_objects", "objects", "AP", "AP50", "AR100", "as_other", "as_more_frequent")
    columns = ["class", "objects, train", "objects", "AP", "AP50", "AR100", "detected as another class"]
    columns.append("as a more frequent one")
    rows = [[row[key] for key in keys] for row in classes["rows"]]
    tables = {"classes": _table(columns, "text count count decimal decimal decimal percent percent", rows)}
    keys = ("class", "samples", "loss", "gradient")
    rows = [[row[key] for key in keys] for row in [*classes["rows"], {"class": "background"} | classes["background"]]]
    columns = ["class", "samples", "share of the loss", "share of the gradient"]
    tables["class_losses"] = _table(columns, "text count percent percent", rows)
    return tables | confusion_tables(**classes["confusion"])


def confusion_tables(classes: list[str], counts: list[list[int]]) -> dict[str, Table]:
    """Return the confusion matrix and, for the page if that is too large for it, its largest entries.

    Args:
        counts: objects by true class and predicted class; the last column are those that are not detected.
    """
    if len(classes) < 2:
        return {}
    rows: list[list[Cell]] = [[name, *row] for name, row in zip(classes, counts, strict=True)]
    columns = ["objects of", *(f"detected as {name}" for name in classes), "not detected"]
    tables = {"confusion": _table(columns, "text" + " count" * (len(classes) + 1), rows)}
    if len(classes) <= MAX_MATRIX_CLASSES:
        return tables
    pairs = [(n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row[:-1]) if i != j and n]
    largest = sorted(pairs, key=lambda pair: -pair[0])[:MAX_LISTED_CONFUSIONS]
    rows = [[classes[i], classes[j], n, n / sum(counts[i])] for n, i, j in largest]
    columns = ["objects of", "detected as", "count", "share of the class"]
    return tables | {"confusions": _table(columns, "text text count percent", rows)}


def _curves(curves: dict[str, Any]) -> Table:
    keys = list(curves["loss"])
    columns = ["error (in β)", *(f"{what}: {loss_name(key)}" for what in ("loss", "gradient") for key in keys)]
    rows = [
        [error, *(curves[what][key][i] for what in ("loss", "gradient") for key in keys)]
        for i, error in enumerate(curves["error"])
    ]
    return _table(columns, "decimal" + " decimal" * 2 * len(keys), rows)


def _regression(errors: dict[str, Any]) -> Table:
    rows = []
    for key, loss in errors["losses"].items():
        share = loss["share"]
        rows.append([loss_name(key), share["value"], share["low"], share["high"], loss["ratio"], loss["coordinates"]])
    columns = [
        "loss",
        "gradient share of inliers",
        "95 % low",
        "95 % high",
        "inlier / outlier",
        "share of deltas below β",
    ]
    return _table(columns, "text percent percent percent decimal percent", rows)


def _distribution(distribution: dict[str, Any]) -> Table:
    keys = list(distribution["gradient"])
    names = _bins(distribution["edges"])
    names[-1] = f"≥ {distribution['edges'][-2]:g}"
    rows = [
        [name, distribution["shares"][i], *(distribution["gradient"][key][i] for key in keys)]
        for i, name in enumerate(names)
    ]
    columns = ["error (in β)", "deltas", *(f"gradient of {loss_name(key)}" for key in keys)]
    return _table(columns, "text percent" + " percent" * len(keys), rows)


def _gradients(gradients: dict[str, Any]) -> dict[str, Table]:
    places = list(gradients["norms"])
    rows = [
        [name, loss, *(gradients["norms"][place][name] for place in places)]
        for name, loss in gradients["losses"].items()
    ]
    columns = ["loss", "value", *(f"gradient norm, {place}" for place in places)]
    losses = _table(columns, "text small" + " small" * len(places), rows)
    pairs = [
        [
            pair["place"],
            pair["class"],
            pair["box"],
            *(pair["ratio"][k] for k in ("value", "low", "high")),
            pair["cosine"],
        ]
        for pair in gradients["pairs"]
    ]
    columns = ["layer", "classification", "box", "classification / box", "95 % low", "95 % high", "cosine"]
    return {"losses": losses, "tasks": _table(columns, "text text text decimal decimal decimal decimal", pairs)}
