"""Test of the imbalance report's diagnosis: its findings on baselines, next to the measured delta of each component."""

from collections import Counter
from typing import Any

from libradet.experiments.ablation import collect_row, finished_results, reproduce_table, write_markdown
from libradet.experiments.baseline_reports import load_or_build_report, train_baselines
from libradet.experiments.definitions import read_experiment
from libradet.experiments.row_results import delta_cell, delta_to_baseline
from libradet.experiments.runner import DatasetEntry, ExperimentRunner
from libradet.utils.tables import TextTable

VERDICT = "verdict"

COMPONENTS = {
    "IoU-balanced sampling": ("negatives_roi", "positives_roi"),
    "balanced feature pyramid": ("pyramid",),
    "balanced L1": ("regression_roi",),
}
"""Rows of ``components``, and the report's findings that recommend them."""

_COLUMNS = ["component", "diagnosis (seeds)", "measured (mean)", "delta AP (95 % CI)", "delta AR100 (95 % CI)"]


def reproduce_verdict(runner: ExperimentRunner) -> list[TextTable]:
    """Train what is missing of ``components``, analyze the baselines, and write ``verdict.md``."""
    reproduce_table(runner, read_experiment("components"))
    baselines = train_baselines(runner)
    tables = []
    for dataset in runner.datasets:
        runs = [run for (entry, _), run in baselines.items() if entry is dataset]
        reports = [load_or_build_report(runner, dataset, run)[0] for run in runs]
        tables.append(_dataset_table(runner, dataset, reports))
    title = "Diagnosis, and measured deltas"
    write_markdown(runner, VERDICT, title, [table.to_markdown() for table in tables])
    return tables


def _dataset_table(runner: ExperimentRunner, dataset: DatasetEntry, reports: list[dict[str, Any]]) -> TextTable:
    deltas = _component_deltas(runner, dataset)
    rows = []
    for component, keys in COMPONENTS.items():
        if reports:
            rows.append([component, *_summarize_findings(reports, keys), *deltas.get(component, ["-", "-"])])
    note = f"Reports on baselines of {len(reports)} seeds; each component alone, same budget, paired by seed."
    return TextTable(f"Diagnosis of {dataset.name}, and measured deltas", _COLUMNS, rows, [note])


def _summarize_findings(reports: list[dict[str, Any]], keys: tuple[str, ...]) -> list[str]:
    """Return severities with their counts over seeds, and the mean of each finding's first number."""
    severities, numbers = [], []
    for key in keys:
        findings = [f for report in reports for f in report["diagnosis"]["findings"] if f["key"] == key]
        if not findings:
            continue
        counts = Counter(finding["severity_label"] for finding in findings).most_common()
        severities.append(f"{findings[0]['title']}: " + ", ".join(f"{label} ({n})" for label, n in counts))
        first_numbers = [finding["numbers"][0] for finding in findings if finding["numbers"]]
        values = [number["value"] for number in first_numbers if number["value"] is not None]
        if values:
            numbers.append(f"{sum(values) / len(values):.2f} {findings[0]['numbers'][0]['label']}")
    return ["; ".join(severities) or "-", "; ".join(numbers) or "-"]


def _component_deltas(runner: ExperimentRunner, dataset: DatasetEntry) -> dict[str, list[str]]:
    experiment = read_experiment("components")
    results = finished_results(runner, experiment, dataset)
    by_name = {row.name: collect_row(runner, row, results, [dataset]) for row in runner.supported_rows(experiment)}
    return {
        name: [delta_cell(delta_to_baseline(r, by_name, metric)) for metric in ("AP", "AR100")]
        for name, r in by_name.items()
    }
