"""Ablation tables: train all rows, seeds and datasets, and rewrite the tables after every finished run."""

import os
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from libradet.errors import UserError
from libradet.experiments.definitions import AblationRow, Experiment
from libradet.experiments.row_results import RowResults, delta_cell, delta_to_baseline, metrics_by_frequency, tabulate
from libradet.experiments.runner import DatasetEntry, ExperimentRunner, check_runs
from libradet.utils.atomic_io import atomic_write, write_json
from libradet.utils.tables import TextTable

Results = dict[tuple[str, str, int], dict[str, Any]]
""":attr:`libradet.experiments.launcher.TrainingRun.result` by dataset, row and seed."""


def reproduce_table(runner: ExperimentRunner, experiment: Experiment) -> list[TextTable]:
    """Train what is missing, and write ``NAME.md`` and ``NAME.json`` into the runner's output folder.

    Returns:
        one table per dataset; with several datasets also one of deltas over all of them.

    Raises:
        UserError: ``libradet train`` would reject a row, or the preset has none of them.
    """
    rows = runner.supported_rows(experiment)
    if not rows:
        raise UserError(
            f"{experiment.name}: preset {runner.preset.name} has the backbone and the schedule of none of its rows; "
            "add them to the preset, or name another one"
        )
    grid = list(product(runner.seeds, runner.datasets, rows))
    runs = [runner.make_run(dataset, row, seed, experiment.shared_proposals) for seed, dataset, row in grid]
    check_runs(runs)
    if experiment.shared_proposals:
        runner.train_proposals()
    names = [f"{dataset.name}, {row.name}, seed {seed}" for seed, dataset, row in grid]
    results: Results = {}
    for i, result in runner.run_all(runs, names):
        seed, dataset, row = grid[i]
        results[dataset.name, row.name, seed] = result
        write_tables(runner, experiment, results)
    return write_tables(runner, experiment, results)


def finished_results(runner: ExperimentRunner, experiment: Experiment, dataset: DatasetEntry) -> Results:
    """Return the results of all finished runs of an experiment on one dataset."""
    results: Results = {}
    for row, seed in product(runner.supported_rows(experiment), runner.seeds):
        result = runner.make_run(dataset, row, seed, experiment.shared_proposals).result
        if result is not None:
            results[dataset.name, row.name, seed] = result
    return results


def collect_row(
    runner: ExperimentRunner, row: AblationRow, results: Results, datasets: Sequence[DatasetEntry]
) -> RowResults:
    """Return the results of a row on some of the datasets, by dataset and seed."""
    metrics, failures = {}, {}
    for dataset, seed in product(datasets, runner.seeds):
        result = results.get((dataset.name, row.name, seed))
        if result is not None and "metrics" in result:
            metrics[dataset.name, seed] = _add_metrics_by_frequency(result["metrics"], dataset)
        elif result is not None:
            failures[dataset.name, seed] = result["failure"].splitlines()[0]
    return RowResults(row, metrics, failures)


def _add_metrics_by_frequency(metrics: dict[str, Any], dataset: DatasetEntry) -> dict[str, Any]:
    return metrics | metrics_by_frequency(metrics.get("per_class") or {}, dataset.class_counts)


def write_tables(runner: ExperimentRunner, experiment: Experiment, results: Results) -> list[TextTable]:
    """Write and return the tables of the results so far."""
    tables = [_dataset_table(runner, experiment, results, dataset) for dataset in runner.datasets]
    if len(runner.datasets) > 1:
        tables.append(_overall_table(runner, experiment, results))
    write_markdown(runner, experiment.name, experiment.title, [table.to_markdown() for table in tables])
    content = _to_json(runner, experiment, results)
    write_json(runner.output_dir / f"{experiment.name}.json", content, indent=1)
    return tables


def write_markdown(runner: ExperimentRunner, name: str, title: str, sections: Sequence[str]) -> None:
    """Write ``NAME.md``: command, versions and preset, then the sections."""
    with atomic_write(runner.output_dir / f"{name}.md") as partial:
        partial.write_text("\n".join([_header(runner, title), *sections]), encoding="utf-8")


def _header(runner: ExperimentRunner, title: str) -> str:
    preset = runner.preset
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    versions = ", ".join(f"{name} {version(name)}" for name in ("libradet", "torch", "torchvision", "timm"))
    datasets = "; ".join(f"{d.name}: {d.num_images} images, {_describe_weights(d)}" for d in runner.datasets)
    seeds = ", ".join(map(str, runner.seeds))
    scale = f"Preset `{preset.name}`: {preset.title}. Deviations from the paper: {preset.deviations}."
    if runner.overrides:
        scale += f" Overrides for all rows: {', '.join(f'{key} = {value}' for key, value in runner.overrides.items())}."
    lines = [
        f"# {title}",
        f"{today}, {versions}, {os.cpu_count()} cores. Seeds {seeds}. {datasets}.",
        f"```\n{_command()}\n```",
        scale,
    ]
    return "\n\n".join(lines) + "\n"


def _command() -> str:
    return shlex.join(["libradet", *sys.argv[1:]])


def _describe_weights(dataset: DatasetEntry) -> str:
    return f"backbones initialized from {Path(dataset.weights).name}" if dataset.weights else "random initialization"


def _dataset_table(
    runner: ExperimentRunner, experiment: Experiment, results: Results, dataset: DatasetEntry
) -> TextTable:
    rows = [collect_row(runner, row, results, [dataset]) for row in runner.supported_rows(experiment)]
    return tabulate(experiment, rows, f"{experiment.title}, on {dataset.name}", _notes(runner, experiment))


def _notes(runner: ExperimentRunner, experiment: Experiment) -> list[str]:
    source = f" ({experiment.source})" if experiment.source else ""
    has_paper = any(row.paper for row in experiment.rows)
    notes = [
        "In percent: mean ± standard deviation over seeds"
        + (f", the paper's in brackets{source}." if has_paper else "."),
        f"Deltas are paired by seed, relative to {_describe_baseline(experiment, has_paper)}.",
    ]
    omitted = [row.name for row in experiment.rows if not runner.preset.supports(row)]
    if omitted:
        notes.append(f"Omitted, since the preset has no backbone or schedule for them: {'; '.join(omitted)}.")
    return notes


def _describe_baseline(experiment: Experiment, has_paper: bool) -> str:
    if has_paper:
        return "the baseline that the paper uses"
    others = {row.baseline for row in experiment.rows} - {None, experiment.rows[0].name}
    pairs = [f"of {row.name} to {row.baseline}" for row in experiment.rows if row.baseline in others]
    return f"the first row{''.join(f', {pair}' for pair in pairs)}"


def _overall_table(runner: ExperimentRunner, experiment: Experiment, results: Results) -> TextTable:
    rows = [collect_row(runner, row, results, runner.datasets) for row in runner.supported_rows(experiment)]
    by_name = {r.row.name: r for r in rows}
    lines = []
    for r in rows:
        if r.row.baseline is not None:
            deltas = [delta_cell(delta_to_baseline(r, by_name, metric)) for metric in experiment.metrics]
            lines.append([r.row.name, str(len(r.metrics)), *deltas])
    title = f"{experiment.title}: deltas over all {len(runner.datasets)} datasets"
    notes = ["Percentage points with 95 % confidence intervals, paired by dataset and seed."]
    return TextTable(title, ["", "runs", *experiment.metrics], lines, notes)


def _to_json(runner: ExperimentRunner, experiment: Experiment, results: Results) -> dict[str, Any]:
    return {
        "title": experiment.title,
        "command": _command(),
        "preset": runner.preset.name,
        "seeds": runner.seeds,
        "rows": [_row_to_json(runner, row, results) for row in runner.supported_rows(experiment)],
    }


def _row_to_json(runner: ExperimentRunner, row: AblationRow, results: Results) -> dict[str, Any]:
    by_dataset = {
        dataset.name: {
            seed: _result_to_json(results.get((dataset.name, row.name, seed)), dataset) for seed in runner.seeds
        }
        for dataset in runner.datasets
    }
    return {
        "name": row.name,
        "model": row.model,
        "set": row.settings,
        "baseline": row.baseline,
        "paper": row.paper,
        "results": by_dataset,
    }


def _result_to_json(result: dict[str, Any] | None, dataset: DatasetEntry) -> dict[str, Any] | None:
    if result is None:
        return None
    if "failure" in result:
        return {"failure": result["failure"], "seconds": result["seconds"]}
    metrics = _add_metrics_by_frequency(result["metrics"], dataset)
    numbers = {k: v for k, v in metrics.items() if k.startswith(("AP", "AR", "mask_AP", "mask_AR"))}
    return numbers | {"seconds": result["seconds"]}
