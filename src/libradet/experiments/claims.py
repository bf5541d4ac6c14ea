"""Measurement of every quantitative claim of the paper."""

from collections.abc import Callable
from typing import Any, NamedTuple

from libradet.experiments.ablation import collect_row, finished_results, reproduce_table, write_markdown
from libradet.experiments.baseline_reports import load_or_build_report, select_roi_heads, train_baselines
from libradet.experiments.definitions import read_experiment
from libradet.experiments.row_results import compute_mean, mean_cell
from libradet.experiments.runner import DatasetEntry, ExperimentRunner
from libradet.utils.tables import TextTable

CLAIMS = "claims"

_COLUMNS = ["claim", "paper, on COCO", "here"]
_NOTE = (
    "Mean ± standard deviation over seeds, for baselines (RoI heads on precomputed proposals) on validation images. "
    "Hard negatives are the 5 % of an image's negatives with the largest loss, at most as many as are sampled. Inliers "
    "are positives with a smooth L1 loss below 1. Step times are measured in turns, forward and backward, on one batch."
)


class _Claim(NamedTuple):
    """A claim that an imbalance report answers; ``measure`` returns None where the report has no such value."""

    text: str
    paper: str
    measure: Callable[[dict[str, Any]], float | None]
    is_percent: bool = False


def reproduce_claims(runner: ExperimentRunner) -> list[TextTable]:
    """Train what is missing of the baseline and of Table 4, analyze baselines, time steps; write ``claims.md``."""
    baselines = train_baselines(runner)
    tables = []
    for dataset in runner.datasets:
        runs = [run for (entry, _), run in baselines.items() if entry is dataset]
        reports = [load_or_build_report(runner, dataset, run)[0] for run in runs]
        rows = [_report_row(claim, reports) for claim in _REPORT_CLAIMS]
        rows += [_num_bins_row(runner, dataset), *_step_time_rows(runner, dataset)]
        tables.append(TextTable(f"The paper's claims on {dataset.name}", _COLUMNS, rows, [_NOTE]))
    write_markdown(runner, CLAIMS, "The paper's claims", [table.to_markdown() for table in tables])
    return tables


def _sampled_above(report: dict[str, Any], sampler: str) -> float | None:
    """Share of a sampler's negatives whose IoU is above 0.05."""
    return select_roi_heads(report["samples"])["negatives"][sampler]["above_threshold"]["value"]


def _inlier_ratio(report: dict[str, Any], loss: str) -> float | None:
    """Gradient per inlier over gradient per outlier."""
    return select_roi_heads(report["errors"])["losses"][loss]["ratio"]


def _loss_ratio(report: dict[str, Any]) -> float | None:
    losses = report["gradients"]["losses"]
    return losses["box"] / losses["class"] if losses.get("class") else None


_REPORT_CLAIMS = (
    _Claim("hard negatives with IoU above 0.05", "more than 60 %", lambda r: _sampled_above(r, "hard"), True),
    _Claim("negatives of random sampling above 0.05", "about 30 %", lambda r: _sampled_above(r, "random"), True),
    _Claim("negatives of IoU-balanced sampling, K = 3", "", lambda r: _sampled_above(r, "iou_balanced_paper_3"), True),
    _Claim("gradient per inlier / per outlier, smooth L1", "0.30", lambda r: _inlier_ratio(r, "smooth_l1")),
    _Claim("gradient per inlier / per outlier, balanced L1", "", lambda r: _inlier_ratio(r, "balanced_l1_0.5_1.5")),
    _Claim("localization loss / classification loss", "about 0.5", _loss_ratio),
)


def _report_row(claim: _Claim, reports: list[dict[str, Any]]) -> list[str]:
    values = [value for report in reports if (value := claim.measure(report)) is not None]
    mean = compute_mean(values)
    cell = mean_cell(mean, digits=1, factor=100.0) if claim.is_percent else mean_cell(mean, digits=2)
    unit = " %" if claim.is_percent and mean is not None else ""
    return [claim.text, claim.paper, cell + unit]


def _num_bins_row(runner: ExperimentRunner, dataset: DatasetEntry) -> list[str]:
    """Return the row of Table 4's claim that the number of bins K hardly matters."""
    experiment = read_experiment("table4")
    reproduce_table(runner, experiment)
    results = finished_results(runner, experiment, dataset)
    means = {}
    for row in (row for row in experiment.rows if "K =" in row.name):
        mean = collect_row(runner, row, results, [dataset]).mean("AP")
        if mean is not None:
            means[row.name[-1]] = mean.value
    values = ", ".join(f"K = {k}: {value:.1f}" for k, value in means.items())
    difference = f"{max(means.values()) - min(means.values()):.1f} AP ({values})" if means else "-"
    return ["largest difference between K = 2, 3 and 5", "0.1 AP", difference]


def _step_time_rows(runner: ExperimentRunner, dataset: DatasetEntry) -> list[list[str]]:
    """Return one row per component: its training step's time relative to the baseline's."""
    from libradet.experiments.step_timing import median_ratio, time_steps

    experiment = read_experiment("components")
    seed = runner.seeds[0]
    runner.log(f"{dataset.name}: timing steps")
    runs = [runner.make_run(dataset, row, seed, experiment.shared_proposals) for row in experiment.rows]
    baseline_seconds, *component_seconds = time_steps(runs)
    paper = {"IoU-balanced sampling": "no extra cost"}
    return [
        [
            f"step time / baseline's: {row.name}",
            paper.get(row.name, ""),
            f"{median_ratio(baseline_seconds, seconds):.2f}",
        ]
        for row, seconds in zip(experiment.rows[1:], component_seconds, strict=True)
    ]
