"""Tables from training runs: made once, gone on with after a kill, and as the training command makes them."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from safetensors.torch import load_file

from libradet.cli import main
from libradet.data.synthesis.synthetic import synthesize
from libradet.errors import UserError
from libradet.experiments.runs import LOG, Workshop, make_run

PRESET = """
title: tiny
differs: everything
weights: file
threads: 1
settings:
  batch_size: 4
  workers: 0
  samples: 0
  logger: [csv]
  precision: "32"
  detector.image.size: [64, 96]
  detector.pyramid.channels: 16
rpn:
  detector.rpn.train_proposals: {per_level: 50, total: 50}
  detector.rpn.test_proposals: {per_level: 50, total: 50}
roi:
  detector.roi.width: 16
  detector.roi.sampling.size: 16
proposals:
  detector.detections.total: 50
backbones: {resnet50: resnet18}
schedules:
  1x: {images: IMAGES}
"""
TABLE = """
title: Two rows
source: nowhere
measures: [AP, AP50]
model: fast_rcnn
proposals: shared
rows:
  - {name: plain, paper: [10.0, 20.0]}
  - {name: louder, set: {detector.roi.box_loss.weight: 2.0}, paper: [11.0, 20.5]}
"""


@pytest.fixture
def asked(tmp_path):
    """Arguments of a tiny comparison."""

    def make(images=8, table=TABLE):
        synthesize(tmp_path / "data", train=8, val=4, size=(96, 80), classes=2)
        (tmp_path / "preset.yaml").write_text(PRESET.replace("IMAGES", str(images)))
        (tmp_path / "mine.yaml").write_text(table)
        words = ["reproduce", str(tmp_path / "mine.yaml"), "--preset", str(tmp_path / "preset.yaml")]
        words += ["--data", str(tmp_path / "data"), "--weights", "none", "--out", str(tmp_path / "out")]
        return words

    return make


def finished(out):
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("runs/data/*/result.json")}


@pytest.mark.slow
def test_a_table_is_made_of_training_runs_and_what_is_finished_is_not_done_again(asked, tmp_path, capsys):
    words, out = [*asked(), "--seeds", "3"], tmp_path / "out"
    assert main(words) == 0
    said = capsys.readouterr().out
    made = finished(out)
    assert len(made) == 3  # two rows and the RPN whose proposals they share
    numbers = json.loads((out / "mine.json").read_text())
    assert [row["name"] for row in numbers["rows"]] == ["plain", "louder"]
    for row in numbers["rows"]:
        measured = row["results"]["data"]["3"]
        assert f"{100 * measured['AP']:.1f} ({row['paper']['AP']:.1f})" in said
    assert main(words) == 0
    assert finished(out) == made
    assert "10.0" in (out / "mine.md").read_text()


@pytest.mark.slow
def test_killed_and_restarted_it_ends_as_if_left_alone_and_repeats_nothing(asked, tmp_path):
    words = [*asked(images=64), "--seeds", "0", "1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main([*words[:-3], "--out", str(whole), *words[-3:]]) == 0
    again = [*words[:-3], "--out", str(killed), *words[-3:]]
    for moment in (1, 3):
        process = subprocess.Popen([sys.executable, "-m", "libradet", *again], start_new_session=True)
        while len(finished(killed)) < moment and process.poll() is None:
            time.sleep(0.2)
        before = finished(killed)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert len(before) >= moment
    assert main(again) == 0
    after = finished(killed)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(finished(whole)) == 5
    results = [json.loads((folder / "mine.json").read_text())["rows"] for folder in (whole, killed)]
    for rows in zip(*results, strict=True):
        kept = [{seed: (m["AP"], m["AR100"]) for seed, m in row["results"]["data"].items()} for row in rows]
        assert kept[0] == kept[1]


def test_a_row_is_what_the_training_command_makes_of_its_settings_and_is_made_once(asked, tmp_path, capsys):
    table = TABLE.replace("fast_rcnn", "rpn").replace("proposals: shared\n", "").split("  - {name: louder")[0]
    words = [*asked(table=table.replace("[AP, AP50]", "[AR100, AR10]")), "--seeds", "1"]
    assert main(words) == 0
    made_first = finished(tmp_path / "out")
    assert main(words) == 0
    assert len(made_first) == 1
    assert finished(tmp_path / "out") == made_first
    measured = json.loads((tmp_path / "out" / "mine.json").read_text())["rows"][0]["results"]["data"]["1"]
    assert f"{100 * measured['AR100']:.1f} (10.0)" in capsys.readouterr().out
    (made,) = (tmp_path / "out" / "runs" / "data").iterdir()
    assert main(["train", "--config", str(made / "request.yaml"), "--out", str(tmp_path / "alone")]) == 0
    ours, theirs = (load_file(folder / "best.safetensors") for folder in (made, tmp_path / "alone"))
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_stopping_ends_runs_that_were_started_where_ctrl_c_is_ignored(tmp_path):
    """As a script's ``libradet reproduce ... &`` has it, which its processes inherit."""
    synthesize(tmp_path / "data", train=8, val=4, size=(96, 80), classes=2)
    settings = {"model": "rpn", "data": str(tmp_path / "data"), "backbone": "resnet18", "epochs": 10_000}
    run, workshop = make_run(tmp_path / "runs", settings, seed=0), Workshop(threads=1)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(workshop.carry_out, run)
            while not (run.folder / LOG).exists():
                time.sleep(0.01)
            workshop.close()
            with pytest.raises(UserError, match="the same command again goes on"):
                future.result(timeout=60)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_a_run_that_diverges_is_said_to_and_the_others_go_on(asked, tmp_path, capsys):
    table = TABLE.replace("fast_rcnn", "rpn").replace("proposals: shared\n", "").replace("[AP, AP50]", "[AR100, AR10]")
    table = table.replace("detector.roi.box_loss.weight: 2.0", "lr: 1.0e+30, warmup: 0, clip: null")
    assert main([*asked(images=32, table=table), "--seeds", "0"]) == 0
    said = capsys.readouterr().out
    assert "failed (the loss is not finite any more" in said
    assert "0, 1 failed" in (tmp_path / "out" / "mine.md").read_text()
    rows = json.loads((tmp_path / "out" / "mine.json").read_text())["rows"]
    assert "failure" in rows[1]["results"]["data"]["0"]
    assert rows[0]["results"]["data"]["0"]["AR100"] is not None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "epoch=3"], "epochs"),
        (["--set", "epochs"], "KEY=VALUE"),
        (["--jobs", "0"], "above"),
        (["--seeds", "1", "1"], "another number"),
        (["--weights", "nowhere.safetensors"], "no such file"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(asked, tmp_path, capsys, more, said):
    assert main([*asked(), *more]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
