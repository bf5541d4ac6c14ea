"""The report's numbers as tables: what every figure shows, for eyes, spreadsheets and machines alike."""

import csv
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict

from libradet.analysis.feature_level import SIZES
from libradet.analysis.words import POSITIVES, SAMPLERS, levels, loss_name

Cell = str | int | float | None


class Table(TypedDict):
    """``forms``: how each column's numbers are written on the page (see :mod:`libradet.analysis.shown`)."""

    columns: list[str]
    forms: list[str]
    rows: list[list[Cell]]


def make_tables(report: dict[str, Any]) -> dict[str, Table]:
    """Every table by name, which is that of its figure and CSV file."""
    tables: dict[str, Table] = {}
    for samples in report["samples"]:
        tables[f"negatives_{samples['stage']}"] = _negatives(samples)
        tables[f"positives_{samples['stage']}"] = _positives(samples)
    tables |= _features(report["features"], report["gradients"])
    tables["level_sizes"] = _level_sizes(report["levels"], report["features"]["strides"])
    tables["loss_curves"] = _curves(report["curves"])
    for errors in report["errors"]:
        tables[f"regression_{errors['stage']}"] = _regression(errors)
        tables[f"errors_{errors['stage']}"] = _distribution(errors["distribution"])
    tables |= _gradients(report["gradients"])
    if report["classes"]["rows"]:
        rows = [[row[key] for key in ("class", "objects", "AP", "AP50")] for row in report["classes"]["rows"]]
        tables["classes"] = _table(["class", "objects", "AP", "AP50"], "text count decimal decimal", rows)
    rows = [[row[key] for key in ("size", "objects", "AP", "AR")] for row in report["sizes"]]
    tables["sizes"] = _table(["size", "objects", "AP", "AR of 100"], "text count decimal decimal", rows)
    if report["mistakes"]:
        rows = [[name, kind["count"], kind["cost"]] for name, kind in report["mistakes"]["kinds"].items()]
        tables["mistakes"] = _table(["error", "how many", "AP50 that it costs"], "text count decimal", rows)
    return tables


def write_tables(tables: dict[str, Table], folder: Path) -> None:
    """One CSV file each, with full precision."""
    folder.mkdir(parents=True)
    for name, table in tables.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(table["columns"])
            writer.writerows(table["rows"])


def _table(columns: list[str], forms: str, rows: Iterable[list[Cell]]) -> Table:
    return Table(columns=columns, forms=forms.split(), rows=list(rows))


def _bins(edges: list[float]) -> list[str]:
    return [f"{a:g}–{b:g}" for a, b in pairwise(edges)]


def _negatives(samples: dict[str, Any]) -> Table:
    bins = [f"IoU {name}" for name in _bins(samples["edges"])]
    rows = []
    for key, name in SAMPLERS.items():
        row = samples["negatives"][key]
        above = row["above"]
        rows.append([name, row["count"], above["value"], above["low"], above["high"], *row["shares"]])
    columns = ["negatives", "number", "IoU > 0.05", "95 % from", "to", *bins]
    return _table(columns, "text count percent percent percent" + " percent" * len(bins), rows)


def _positives(samples: dict[str, Any]) -> Table:
    keys = ("total", "mean", "median", "without", "top_tenth", "small", "medium", "large")
    found = samples["positives"]["by_sampler"]
    rows = [[name, *(found[key][k] for k in keys)] for key, name in POSITIVES.items() if key in found]
    columns = ["positives", "number", "mean of an object", "median", "objects without", "best-served tenth has"]
    columns += ["mean of a small one", "of a medium one", "of a large one"]
    return _table(columns, "text count decimal decimal percent percent decimal decimal decimal", rows)


def _features(features: dict[str, Any], gradients: dict[str, Any]) -> dict[str, Table]:
    names = levels(features["strides"])
    found = {}
    for when in ("before", "after"):
        if features[when]:
            rows = [[name, *row] for name, row in zip(names, features[when]["cka"], strict=True)]
            found[f"similarity_{when}"] = _table(["level", *names], "text" + " decimal" * len(names), rows)
    columns = ["level", "similarity to the others", "share of the average", "activation (RMS)", "gradient norm"]
    forms = "text decimal percent small small"
    parts = [features["before"]["others"], features["before"]["integration"], features["before"]["rms"]]
    parts.append(gradients["levels"]["before"])
    if features["after"]:
        columns += ["balanced: similarity", "balanced: activation", "balanced: gradient norm"]
        forms += " decimal small small"
        parts += [features["after"]["others"], features["after"]["rms"], gradients["levels"]["after"]]
    rows = [list(row) for row in zip(names, *parts, strict=True)]
    return found | {"levels": _table(columns, forms, rows)}


def _level_sizes(found: dict[str, Any], strides: list[int]) -> Table:
    parts = {"objects read by the second stage": found["reads"]} if found["reads"] else {}
    parts |= {
        ("positive proposals read" if key == "roi" else "positive anchors"): table
        for key, table in found["positives"].items()
    }
    columns = ["level", *(f"{what}, {size}" for what in parts for size in SIZES)]
    rows = [[name, *(n for table in parts.values() for n in table[i])] for i, name in enumerate(levels(strides))]
    return _table(columns, "text" + " count" * (len(columns) - 1), rows)


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
    columns = ["loss", "gradient from inliers", "95 % from", "to", "inlier over outlier", "from deltas below β"]
    return _table(columns, "text percent percent percent decimal percent", rows)


def _distribution(found: dict[str, Any]) -> Table:
    keys = list(found["gradient"])
    names = _bins(found["edges"])
    names[-1] = f"≥ {found['edges'][-2]:g}"
    rows = [[name, found["shares"][i], *(found["gradient"][key][i] for key in keys)] for i, name in enumerate(names)]
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
    columns = ["place", "classes", "boxes", "classes over boxes", "95 % from", "to", "cosine"]
    return {"losses": losses, "tasks": _table(columns, "text text text decimal decimal decimal decimal", pairs)}
