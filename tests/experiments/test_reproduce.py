"""``libradet reproduce``: tables of training runs, each executed once, resumed after a kill, equal to the command's."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from libradet.cli import main
from libradet.data.synthesis.synthetic import synthesize

PRESET = """
title: tiny
deviations: everything
weights: file
threads: 1
settings:
  batch_size: 4
  num_workers: 0
  num_val_images_logged: 0
  logger: [csv]
  precision: fp32
  detector.image.size: [64, 96]
  detector.pyramid.channels: 16
rpn:
  detector.rpn.train_proposals: {pre_nms_top_n: 50, post_nms_top_n: 50}
  detector.rpn.test_proposals: {pre_nms_top_n: 50, post_nms_top_n: 50}
roi:
  detector.roi.fc_dim: 16
  detector.roi.sampling.batch_size_per_image: 16
proposals:
  detector.detections.detections_per_img: 50
backbones: {resnet50: resnet18}
schedules:
  1x: {images: IMAGES}
"""
TABLE = """
title: Two rows
source: nowhere
metrics: [AP, AP50]
model: fast_rcnn
proposals: shared
rows:
  - {name: plain, paper: [10.0, 20.0]}
  - {name: weighted, set: {detector.roi.box_loss.weight: 2.0}, paper: [11.0, 20.5]}
"""
RPN_TABLE = TABLE.replace("fast_rcnn", "rpn").replace("proposals: shared\n", "").replace("[AP, AP50]", "[AR100, AR10]")


@pytest.fixture
def make_arguments(tmp_path):
    """Return a function that writes a tiny experiment and returns the arguments of the command."""

    def make(images=8, table=TABLE):
        synthesize(tmp_path / "data", train=8, val=4, size=(96, 80), classes=2)
        (tmp_path / "preset.yaml").write_text(PRESET.replace("IMAGES", str(images)))
        (tmp_path / "mine.yaml").write_text(table)
        arguments = ["reproduce", str(tmp_path / "mine.yaml"), "--preset", str(tmp_path / "preset.yaml")]
        return [*arguments, "--data", str(tmp_path / "data"), "--weights", "none"]

    return make


def finished_runs(output_dir):
    """Return the modification time of the results of finished runs, by folder name."""
    return {path.parent.name: path.stat().st_mtime_ns for path in output_dir.glob("runs/data/*/result.json")}


@pytest.mark.slow
def test_table_consists_of_training_runs_and_finished_ones_are_not_repeated(make_arguments, tmp_path, capsys):
    output_dir = tmp_path / "out"
    arguments = [*make_arguments(), "--output_dir", str(output_dir), "--seeds", "3"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    runs = finished_runs(output_dir)
    assert len(runs) == 3  # two rows and the RPN whose proposals they share
    content = json.loads((output_dir / "mine.json").read_text())
    assert [row["name"] for row in content["rows"]] == ["plain", "weighted"]
    for row in content["rows"]:
        metrics = row["results"]["data"]["3"]
        assert f"{100 * metrics['AP']:.1f} ({row['paper']['AP']:.1f})" in printed
    assert main(arguments) == 0
    assert finished_runs(output_dir) == runs
    assert "10.0" in (output_dir / "mine.md").read_text()


@pytest.mark.slow
def test_restart_after_kills_gives_equal_results_and_repeats_nothing(make_arguments, tmp_path):
    arguments = [*make_arguments(images=64), "--seeds", "0", "1"]
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    assert main([*arguments, "--output_dir", str(uninterrupted)]) == 0
    arguments += ["--output_dir", str(killed)]
    for num_runs in (1, 3):
        process = subprocess.Popen([sys.executable, "-m", "libradet", *arguments], start_new_session=True)
        while len(finished_runs(killed)) < num_runs and process.poll() is None:
            time.sleep(0.2)
        before = finished_runs(killed)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert len(before) >= num_runs
    assert main(arguments) == 0
    after = finished_runs(killed)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(finished_runs(uninterrupted)) == 5
    results = [json.loads((folder / "mine.json").read_text())["rows"] for folder in (uninterrupted, killed)]
    for rows in zip(*results, strict=True):
        metrics = [{seed: (m["AP"], m["AR100"]) for seed, m in row["results"]["data"].items()} for row in rows]
        assert metrics[0] == metrics[1]


@pytest.mark.slow
def test_row_equals_the_train_command_with_its_settings_and_runs_once(make_arguments, tmp_path, capsys):
    output_dir = tmp_path / "out"
    one_row = RPN_TABLE.split("  - {name: weighted")[0]
    arguments = [*make_arguments(table=one_row), "--output_dir", str(output_dir), "--seeds", "1"]
    assert main(arguments) == 0
    runs = finished_runs(output_dir)
    assert main(arguments) == 0
    assert len(runs) == 1
    assert finished_runs(output_dir) == runs
    metrics = json.loads((output_dir / "mine.json").read_text())["rows"][0]["results"]["data"]["1"]
    assert f"{100 * metrics['AR100']:.1f} (10.0)" in capsys.readouterr().out
    (run,) = (output_dir / "runs" / "data").iterdir()
    assert main(["train", "--config", str(run / "request.yaml"), "--output_dir", str(tmp_path / "alone")]) == 0
    ours, theirs = (load_file(folder / "best.safetensors") for folder in (run, tmp_path / "alone"))
    assert all(ours[name].equal(theirs[name]) for name in ours)


@pytest.mark.slow
def test_diverged_run_is_reported_and_the_others_continue(make_arguments, tmp_path, capsys):
    diverging = "lr: 1.0e+30, warmup_steps: 0, gradient_clip_val: null"
    table = RPN_TABLE.replace("detector.roi.box_loss.weight: 2.0", diverging)
    output_dir = tmp_path / "out"
    assert main([*make_arguments(images=32, table=table), "--output_dir", str(output_dir), "--seeds", "0"]) == 0
    assert "failed (the loss is not finite" in capsys.readouterr().out
    assert "0, 1 failed" in (output_dir / "mine.md").read_text()
    rows = json.loads((output_dir / "mine.json").read_text())["rows"]
    assert "failure" in rows[1]["results"]["data"]["0"]
    assert rows[0]["results"]["data"]["0"]["AR100"] is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "epoch=3"], "max_epochs"),
        (["--set", "epochs"], "KEY=VALUE"),
        (["--set", "lr=["], "not valid YAML"),
        (["--jobs", "0"], "at least 1"),
        (["--seeds", "1", "1"], "must be different"),
        (["--seeds", "4294967296"], "must be different, 0 to 4294967295"),
        (["--weights", "nowhere.safetensors"], "no such file"),
    ],
)
def test_invalid_options_are_refused_before_anything_is_written(make_arguments, tmp_path, capsys, options, message):
    assert main([*make_arguments(), "--output_dir", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_belongs_to_other_options_is_refused(make_arguments, tmp_path, capsys):
    arguments = make_arguments()
    (tmp_path / "file").touch()
    for extra, message in [
        (["--set", "weights=nosuch"], "--set: weights cannot be set here; --weights, or weights of a preset"),
        (["--set", "data=foo"], "--set: data cannot be set here; --data names the datasets"),
        (["--output_dir", str(tmp_path / "file")], "it is a file; name a folder"),
    ]:
        assert main([*arguments, *extra]) == 2
        assert message in capsys.readouterr().err
