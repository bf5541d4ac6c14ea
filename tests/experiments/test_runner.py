"""Experiment runner: settings of all rows are checked before anything is trained."""

import json
import re
from dataclasses import replace

import pytest

from libradet.data.synthesis.synthetic import synthesize
from libradet.errors import UserError
from libradet.experiments.ablation import _notes, reproduce_table, write_tables
from libradet.experiments.definitions import AblationRow, list_names, read_experiment, read_preset
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


@pytest.mark.parametrize(
    ("shared", "models", "message"),
    [
        (False, ("faster_rcnn", "fast_rcnn"), "fast_rcnn needs precomputed proposals: add 'proposals: shared' to the"),
        (True, ("fast_rcnn", "faster_rcnn"), "faster_rcnn uses no precomputed proposals: leave out proposals"),
    ],
)
def test_models_and_proposals_that_do_not_fit_are_refused_before_training(tmp_path, shared, models, message):
    runner = make_runner("small", tmp_path)
    rows = [AblationRow(model, model, {}, None, {}) for model in models]
    runs = [runner.make_run(runner.datasets[0], row, 0, shared_proposals=shared) for row in rows]
    check_runs(runs[:1])
    with pytest.raises(UserError, match=message):
        check_runs(runs)
    named = make_runner("small", tmp_path, {"proposals": "somewhere"})
    fast = rows[models.index("fast_rcnn")]
    check_runs([named.make_run(named.datasets[0], fast, 0, shared_proposals=False)])


def test_notes_name_what_deltas_are_relative_to(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("{title: t, metrics: [AP], model: rpn, rows: [{name: a}, {name: b}, {name: c, baseline: b}]}")
    experiment, runner = read_experiment(str(path)), make_runner("small", tmp_path)
    assert "relative to the first row, of c to b." in _notes(runner, experiment)[1]
    assert "relative to the first row." in _notes(runner, replace(experiment, rows=experiment.rows[:2]))[1]
    assert "relative to the baseline that the paper uses." in _notes(runner, read_experiment("table2"))[1]


def test_json_has_every_metric_of_the_table(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("{title: t, metrics: [AP, mask_AP, APr, AP@1], model: mask_rcnn, rows: [{name: a}]}")
    dataset = DatasetEntry("d", tmp_path, num_images=9, weights=None, class_counts={"few": 1, "some": 5, "many": 50})
    runner = replace(make_runner("small", tmp_path), datasets=(dataset,))
    per_class = {"few": 0.1, "some": 0.4, "many": 0.7}
    metrics = {"AP": 0.4, "mask_AP": 0.3, "AP@1": 0.2, "per_class": per_class, "mask_per_class": per_class}
    write_tables(runner, read_experiment(str(path)), {("d", "a", 0): {"metrics": metrics, "seconds": 7}})
    (row,) = json.loads((tmp_path / "mine.json").read_text())["rows"]
    by_frequency = {"APr": 0.1, "APc": 0.4, "APf": 0.7}
    assert row["results"]["d"]["0"] == {"AP": 0.4, "mask_AP": 0.3, "AP@1": 0.2, **by_frequency, "seconds": 7}


def test_a_table_without_a_row_for_the_preset_is_refused(tmp_path):
    runner = make_runner("small", tmp_path)
    experiment = read_experiment("table1")
    rows = tuple(row for row in experiment.rows if not runner.preset.supports(row))
    with pytest.raises(UserError, match="table1: preset small has the backbone and the schedule of none of its rows"):
        reproduce_table(runner, replace(experiment, rows=rows))


def test_datasets_need_a_validation_split(tmp_path):
    synthesize(tmp_path / "data", train=2, val=1, size=(96, 80))
    assert [entry.name for entry in make_dataset_entries([tmp_path / "data"], read_preset("small"), "none")] == ["data"]
    (tmp_path / "data/val.json").unlink()
    with pytest.raises(UserError, match="data: has no validation split"):
        make_dataset_entries([tmp_path / "data"], read_preset("small"), "none")


@pytest.mark.parametrize("changed", ["box", "image", "class", "weights"])
def test_runs_on_other_data_or_weights_are_not_reused(tmp_path, changed):
    data, weights, preset = tmp_path / "data", tmp_path / "backbone.safetensors", read_preset("small")
    synthesize(data, train=2, val=2, size=(96, 80))
    weights.write_bytes(b"first")
    row = read_experiment("table2").rows[0]

    def make():
        datasets = make_dataset_entries([data], preset, str(weights))
        runner = ExperimentRunner(preset, datasets, (0,), tmp_path / "out", 1)
        return runner.make_run(datasets[0], row, 0, shared_proposals=False)

    run = make()
    run.folder.mkdir(parents=True)
    result = {"metrics": {"AP": 0.5}, "seconds": 1, **run.digests.by_key()}
    (run.folder / "result.json").write_text(json.dumps(result))
    assert make().result == result
    if changed == "box":
        annotations = json.loads((data / "val.json").read_text())
        annotations["annotations"][0]["bbox"][2] -= 1
        (data / "val.json").write_text(json.dumps(annotations))
    elif changed == "image":
        image = data / "images" / "val_00000.jpg"
        image.write_bytes(image.read_bytes() + b"0")
    elif changed == "class":
        for path in (data / "train.json", data / "val.json"):
            path.write_text(path.read_text().replace('"ball"', '"globe"'))
    else:
        weights.write_bytes(b"other")
    what = f"the contents of {weights}" if changed == "weights" else f"images or annotations of {data}"
    assert make().folder == run.folder
    with pytest.raises(UserError, match=f"{re.escape(what)} have changed since this run"):
        check_runs([make()])
    (run.folder / "result.json").rename(run.folder / "inputs.json")
    assert make().result is None  # it has not started, so it starts with what there is now
    (run.folder / "config.yaml").touch()
    with pytest.raises(UserError, match=f"{re.escape(what)} have changed since this run"):
        check_runs([make()])
    for key in run.digests.by_key():  # an earlier version had none
        del result[key]
    (run.folder / "result.json").write_text(json.dumps(result))
    assert make().result == result
