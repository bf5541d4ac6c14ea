"""Experiment runner: settings of all rows are checked before anything is trained."""

import pytest

from libradet.data.synthesis.synthetic import synthesize
from libradet.errors import UserError
from libradet.experiments.definitions import list_names, read_experiment, read_preset
from libradet.experiments.runner import DatasetEntry, ExperimentRunner, check_runs, make_dataset_entries


def make_runner(preset, tmp_path, overrides=None):
    dataset = DatasetEntry("d", tmp_path, num_images=100, weights=None)
    return ExperimentRunner(read_preset(preset), (dataset,), (0,), tmp_path, 1, overrides or {})


@pytest.mark.parametrize(("preset", "table"), [("coco", "table1"), *(("small", name) for name in list_names())])
def test_train_accepts_the_settings_of_every_row(table, preset, tmp_path):
    experiment = read_experiment(table)
    runner = make_runner(preset, tmp_path)
    rows = runner.supported_rows(experiment)
    check_runs([runner.make_run(runner.datasets[0], row, 0, experiment.shared_proposals) for row in rows])


def test_unknown_settings_are_refused_before_training(tmp_path):
    runner = make_runner("small", tmp_path, {"detector.roi.sampling.negative": "random"})
    run = runner.make_run(runner.datasets[0], read_experiment("table2").rows[0], 0, shared_proposals=False)
    with pytest.raises(UserError, match="negatives"):
        check_runs([run])


def test_datasets_need_a_validation_split(tmp_path):
    synthesize(tmp_path / "data", train=2, val=1, size=(96, 80))
    assert [entry.name for entry in make_dataset_entries([tmp_path / "data"], read_preset("small"), "none")] == ["data"]
    (tmp_path / "data/val.json").unlink()
    with pytest.raises(UserError, match="data: has no validation split"):
        make_dataset_entries([tmp_path / "data"], read_preset("small"), "none")
