"""The paper's figures on other data: what the imbalance report draws of the baseline, with the numbers behind them."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from libradet.analysis.words import SAMPLERS, loss_name
from libradet.experiments.comparing import heading
from libradet.experiments.laboratory import Laboratory
from libradet.experiments.looking import baselines, look_at, second_stage
from libradet.experiments.tables import Lines, to_markdown
from libradet.utils.atomic_io import atomic_write

FIGURES = {
    "figure3": ("Figure 3: IoU of hard negatives, and of what samplers take", ("overlaps_roi", "negatives_roi")),
    "figure5": ("Figure 5: gradients of balanced L1", ("loss_curves", "errors_roi", "regression_roi")),
    "figure6": ("Figure 6: samples of random and of IoU-balanced sampling", ("samples_*",)),
}
"""Title, and the names of the report's figures."""


def reproduce_figure(laboratory: Laboratory, name: str) -> list[Lines]:
    """Write ``NAME.md`` and its images, of the baseline of the first seed on each dataset."""
    title, patterns = FIGURES[name]
    first = replace(laboratory, seeds=laboratory.seeds[:1])
    parts, tables = [heading(first, title)], []
    for (site, _), run in baselines(first).items():
        report, folder = look_at(first, site, run)
        lines = TABLES[name](report, f"{title}, on {site.name}")
        tables.append(lines)
        parts.append(to_markdown(lines))
        found = [p for pattern in patterns for p in sorted((folder / "figures").glob(f"{pattern}.*"))]
        for path in found:
            where = Path(f"{name}_files", f"{site.name}_{path.name}")
            (first.out / where).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, first.out / where)
            parts.append(f"![{path.stem} on {site.name}]({where})\n")
    with atomic_write(first.out / f"{name}.md") as partial:
        partial.write_text("\n".join(parts), encoding="utf-8")
    return tables


def _of_samplers(report: dict[str, Any], title: str) -> Lines:
    negatives = second_stage(report["samples"])["negatives"]
    paper = {"hard": "more than 60 %", "random": "about 30 %"}
    cells = [
        [SAMPLERS[key], _share(row["above"]), paper.get(key, "")] for key, row in negatives.items() if key in SAMPLERS
    ]
    return Lines(title, ["negatives", "above IoU 0.05", "the paper's, on COCO"], cells, [_INTERVALS])


def _of_gradients(report: dict[str, Any], title: str) -> Lines:
    losses = second_stage(report["errors"])["losses"]
    cells = [
        [loss_name(key), _share(row["share"]), "–" if row["ratio"] is None else f"{row['ratio']:.2f}"]
        for key, row in losses.items()
    ]
    heads = ["loss", "share of the gradient that inliers bring", "gradient of an inlier ÷ of an outlier"]
    return Lines(
        title, heads, cells, [_INTERVALS, "The paper gives 0.30 for the last column under smooth L1, on COCO."]
    )


def _of_drawings(report: dict[str, Any], title: str) -> Lines:
    cells = [
        [row["image"], row["stage"], SAMPLERS[key], f"{row[key]['near']} of {row[key]['total']}"]
        for row in report["drawings"]
        for key in row
        if key in SAMPLERS
    ]
    return Lines(title, ["image", "stage", "sampler", "negatives drawn near an object"], cells, [])


_INTERVALS = "In brackets 95 % intervals over images."

TABLES = {"figure3": _of_samplers, "figure5": _of_gradients, "figure6": _of_drawings}


def _share(estimate: dict[str, float | None]) -> str:
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None:
        return "–"
    return f"{value:.1%}" + ("" if low is None or high is None else f" [{low:.1%}, {high:.1%}]")
