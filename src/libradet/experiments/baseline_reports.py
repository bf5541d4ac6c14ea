"""Imbalance reports of trained baselines, and the paper's figures on other data, which are figures of these reports."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from libradet.experiments.ablation import write_markdown
from libradet.experiments.definitions import AblationRow
from libradet.experiments.launcher import TrainingRun
from libradet.experiments.runner import DatasetEntry, ExperimentRunner
from libradet.training.run_files import BEST_MODEL
from libradet.utils.tables import TextTable

BASELINE = AblationRow("baseline", "fast_rcnn", settings={}, baseline=None, paper={})
"""First row of the paper's ablations: RoI heads on precomputed proposals, without any balancing."""

FIGURES = {
    "figure3": ("Figure 3: IoU of hard negatives and of sampled negatives", ("iou_histogram_roi", "negatives_roi")),
    "figure5": ("Figure 5: gradients of balanced L1", ("loss_curves", "errors_roi", "regression_roi")),
    "figure6": ("Figure 6: samples of random and of IoU-balanced sampling", ("samples_*",)),
}
"""Title, and file name patterns of the report's figures."""

_INTERVALS = "In brackets: 95 % confidence intervals over images."


def train_baselines(runner: ExperimentRunner) -> dict[tuple[DatasetEntry, int], TrainingRun]:
    """Train the baseline with every seed on every dataset; return the runs that succeeded by dataset and seed."""
    runner.train_proposals()
    grid = [(dataset, seed) for seed in runner.seeds for dataset in runner.datasets]
    runs = [runner.make_run(dataset, BASELINE, seed, shared_proposals=True) for dataset, seed in grid]
    names = [f"{dataset.name}, {BASELINE.name}, seed {seed}" for dataset, seed in grid]
    results = dict(runner.run_all(runs, names))
    return {grid[i]: runs[i] for i in sorted(results) if "metrics" in results[i]}


def load_or_build_report(
    runner: ExperimentRunner, dataset: DatasetEntry, run: TrainingRun
) -> tuple[dict[str, Any], Path]:
    """Return the imbalance report of a trained baseline on its validation images, and the report's folder."""
    from libradet.analysis.analyze import JSON_FILE, analyze
    from libradet.interop.loading import load_checkpoint_any

    folder = run.folder / "report"
    if not (folder / JSON_FILE).exists():
        runner.log(f"{dataset.name}: analyzing {run.folder.name}")
        analyze(
            load_checkpoint_any(run.folder / BEST_MODEL),
            dataset.data,
            folder,
            proposals=runner.make_proposal_run(dataset).proposals,
        )
    return json.loads((folder / JSON_FILE).read_text(encoding="utf-8")), folder


def select_roi_heads(stages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the entry of the RoI heads from a part of a report that has one entry per stage."""
    return next(entry for entry in stages if entry["stage"] == "roi")


def reproduce_figure(runner: ExperimentRunner, name: str) -> list[TextTable]:
    """Write ``NAME.md`` and its images, from the baseline with the first seed on each dataset."""
    title, patterns = FIGURES[name]
    runner = replace(runner, seeds=runner.seeds[:1])
    sections, tables = [], []
    for (dataset, _), run in train_baselines(runner).items():
        report, folder = load_or_build_report(runner, dataset, run)
        table = _FIGURE_TABLES[name](report, f"{title}, on {dataset.name}")
        tables.append(table)
        sections.append(table.to_markdown())
        sections += _copy_figures(folder / "figures", patterns, runner.output_dir, name, dataset.name)
    write_markdown(runner, name, title, sections)
    return tables


def _copy_figures(figures: Path, patterns: Sequence[str], output_dir: Path, name: str, dataset: str) -> list[str]:
    """Copy the figures of a report to ``NAME_files``; return Markdown images."""
    images = []
    for path in [path for pattern in patterns for path in sorted(figures.glob(f"{pattern}.*"))]:
        target = Path(f"{name}_files", f"{dataset}_{path.name}")
        (output_dir / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, output_dir / target)
        images.append(f"![{path.stem} on {dataset}]({target})\n")
    return images


def _sampler_table(report: dict[str, Any], title: str) -> TextTable:
    from libradet.analysis.report.labels import SAMPLER_LABELS  # imports torch

    negatives = select_roi_heads(report["samples"])["negatives"]
    paper = {"hard": "more than 60 %", "random": "about 30 %"}
    rows = [
        [SAMPLER_LABELS[key], _share(sampler["above_threshold"]), paper.get(key, "")]
        for key, sampler in negatives.items()
        if key in SAMPLER_LABELS
    ]
    return TextTable(title, ["negatives", "above IoU 0.05", "paper, on COCO"], rows, [_INTERVALS])


def _gradient_table(report: dict[str, Any], title: str) -> TextTable:
    from libradet.analysis.report.labels import loss_name  # imports torch

    losses = select_roi_heads(report["errors"])["losses"]
    rows = [
        [loss_name(key), _share(loss["share"]), "-" if loss["ratio"] is None else f"{loss['ratio']:.2f}"]
        for key, loss in losses.items()
    ]
    columns = ["loss", "share of the gradient from inliers", "gradient per inlier / per outlier"]
    notes = [_INTERVALS, "The paper has 0.30 in the last column for smooth L1, on COCO."]
    return TextTable(title, columns, rows, notes)


def _sample_table(report: dict[str, Any], title: str) -> TextTable:
    from libradet.analysis.report.labels import SAMPLER_LABELS  # imports torch

    rows = [
        [image["image"], image["stage"], SAMPLER_LABELS[key], f"{image[key]['near']} of {image[key]['total']}"]
        for image in report["sample_images"]
        for key in image
        if key in SAMPLER_LABELS
    ]
    return TextTable(title, ["image", "stage", "sampler", "sampled negatives near an object"], rows)


_FIGURE_TABLES = {"figure3": _sampler_table, "figure5": _gradient_table, "figure6": _sample_table}


def _share(estimate: dict[str, float | None]) -> str:
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None:
        return "-"
    return f"{value:.1%}" + ("" if low is None or high is None else f" [{low:.1%}, {high:.1%}]")
