"""Tables of experiments whose runs are all finished: nothing is trained, results and reports are read from files."""

import json
from pathlib import Path

import pytest

from libradet.analysis.report.labels import SAMPLER_LABELS
from libradet.experiments import step_timing
from libradet.experiments.baseline_reports import BASELINE, FIGURES, reproduce_figure
from libradet.experiments.claims import reproduce_claims
from libradet.experiments.definitions import read_experiment, read_preset
from libradet.experiments.launcher import RESULT
from libradet.experiments.runner import DatasetEntry, ExperimentRunner
from libradet.experiments.verdict_check import COMPONENTS, reproduce_verdict

SEEDS = (0, 1, 2)
AP_OF_ROW = {"baseline": 40.0, "IoU-balanced sampling": 41.0, "balanced feature pyramid": 40.5, "balanced L1": 42.0}


def estimate(value):
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def make_report(seed):
    """Return the parts of an imbalance report that the experiments read."""
    above = {"hard": 0.7, "random": 0.3 + 0.1 * seed, "iou_balanced_paper_3": 0.6}
    negatives = {name: {"above_threshold": estimate(value)} for name, value in above.items()}
    ratios = {"smooth_l1": 0.3, "balanced_l1_0.5_1.5": 0.6}
    losses = {name: {"share": estimate(ratio / 2), "ratio": ratio} for name, ratio in ratios.items()}
    severity = "strong" if seed else "weak"
    keys = [key for keys in COMPONENTS.values() for key in keys]
    findings = [
        {
            "key": k,
            "title": f"Level {k}",
            "severity_label": severity,
            "numbers": [{"value": seed / 2, "label": "units"}],
        }
        for k in keys
    ]
    return {
        "samples": [{"stage": "rpn"}, {"stage": "roi", "negatives": negatives}],
        "errors": [{"stage": "roi", "losses": losses}],
        "gradients": {"losses": {"class": 2.0, "box": 1.0}},
        "sample_images": [{"image": "a.jpg", "stage": "roi", "random": {"near": 3, "total": 8}}],
        "diagnosis": {"findings": findings},
    }


def finish(runner, experiment):
    """Write the result of every run of an experiment, as the launcher does."""
    for row in runner.supported_rows(experiment):
        for seed in runner.seeds:
            run = runner.make_run(runner.datasets[0], row, seed, experiment.shared_proposals)
            ap = AP_OF_ROW.get(row.name, 40.0 + row.name.count("5")) + seed
            run.folder.mkdir(parents=True, exist_ok=True)
            metrics = {"AP": ap / 100, "AR100": ap / 80, "per_class": {"a": ap / 100}}
            (run.folder / RESULT).write_text(json.dumps({"metrics": metrics, "seconds": 1.0}))


@pytest.fixture
def runner(tmp_path):
    dataset = DatasetEntry("boards", tmp_path / "boards", 600, None)
    runner = ExperimentRunner(read_preset("small"), (dataset,), SEEDS, tmp_path / "out", jobs=1, log=lambda text: None)
    run = runner.make_proposal_run(dataset)
    run.proposals.mkdir(parents=True)
    dataset.data.mkdir()
    for split in ("train", "val"):
        (dataset.data / f"{split}.json").touch()
        (run.proposals / f"{split}.safetensors").touch()
    (run.folder / RESULT).write_text(json.dumps({"metrics": {"AP": 0.1, "AR100": 0.4}, "seconds": 1.0}))
    finish(runner, read_experiment("components"))
    for seed in SEEDS:
        report = runner.make_run(dataset, BASELINE, seed, shared_proposals=True).folder / "report"
        (report / "figures").mkdir(parents=True)
        (report / "report.json").write_text(json.dumps(make_report(seed)))
        for name in ("negatives_roi.svg", "errors_roi.svg", "samples_1.png"):
            (report / "figures" / name).write_text(name)
    return runner


def rows_by_name(table):
    return {row[0]: row[1:] for row in table.rows}


def test_verdict_counts_severities_and_pairs_deltas_by_seed(runner):
    (table,) = reproduce_verdict(runner)
    rows = rows_by_name(table)
    assert rows["balanced L1"][0] == "Level regression_roi: strong (2), weak (1)"
    assert rows["balanced L1"][1] == "0.50 units"  # mean of 0, 0.5 and 1
    assert rows["balanced L1"][2] == "+2.0 [+2.0, +2.0]"
    assert rows["balanced feature pyramid"][3].startswith("+0.6 ")  # AR100 is AP / 0.8: 0.625
    assert rows["IoU-balanced sampling"][0].count("strong (2), weak (1)") == 2
    assert "balanced L1" in Path(runner.output_dir / "verdict.md").read_text(encoding="utf-8")


def test_claims_are_means_over_reports_of_all_seeds(runner, monkeypatch):
    finish(runner, read_experiment("table4"))
    seconds = [[1.0, 2.0, 4.0], [1.0, 3.0, 4.0], [2.0, 4.0, 8.0], [0.5, 1.0, 2.0], [1.0, 2.0, 4.0]]
    monkeypatch.setattr(step_timing, "time_steps", lambda runs: seconds[: len(runs)])
    (table,) = reproduce_claims(runner)
    rows = rows_by_name(table)
    assert rows["hard negatives with IoU above 0.05"][1] == "70.0 ± 0.0 %"
    assert rows["negatives of random sampling above 0.05"][1] == "40.0 ± 10.0 %"
    assert rows["gradient per inlier / per outlier, balanced L1"][1] == "0.60 ± 0.00"
    assert rows["localization loss / classification loss"][1] == "0.50 ± 0.00"
    # The row K = 5 is one point above the others.
    assert rows["largest difference between K = 2, 3 and 5"][1] == "1.0 AP (K = 2: 41.0, K = 3: 41.0, K = 5: 42.0)"
    assert rows["step time / baseline's: balanced feature pyramid"][1] == "2.00"


@pytest.mark.parametrize(
    ("name", "row", "file"),
    [
        ("figure3", ["70.0% [65.0%, 75.0%]", "more than 60 %"], "negatives_roi.svg"),
        ("figure5", ["15.0% [10.0%, 20.0%]", "0.30"], "errors_roi.svg"),
        ("figure6", ["roi", SAMPLER_LABELS["random"], "3 of 8"], "samples_1.png"),
    ],
)
def test_figures_are_those_of_the_first_seed(runner, name, row, file):
    (table,) = reproduce_figure(runner, name)
    assert table.rows[0][1:] == row
    text = (runner.output_dir / f"{name}.md").read_text(encoding="utf-8")
    assert FIGURES[name][0] in text
    copied = runner.output_dir / f"{name}_files" / f"boards_{file}"
    assert copied.read_text() == file
    assert f"({name}_files/{copied.name})" in text


def test_step_times_are_compared_round_by_round():
    assert step_timing.median_ratio([1.0, 2.0, 4.0], [2.0, 2.0, 12.0]) == 2.0
