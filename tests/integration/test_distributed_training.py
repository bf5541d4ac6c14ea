"""Training in several processes matches training in one with the joint batch."""

import json
import signal
import subprocess
import sys

import pytest
import torch

from libradet.api import evaluate
from libradet.cli import main
from libradet.data.loader import make_loader
from libradet.data.read import read
from libradet.training.resume import read_checkpoint
from tests.helpers.launching import wait_for
from tests.helpers.training_runs import rows

# Samplers that take every candidate leave nothing to chance.
EVERYTHING = (
    *("--detector.rpn.sampling.batch_size_per_image", "4000", "--detector.rpn.sampling.positive_fraction", "0.5"),
    *("--detector.roi.sampling.batch_size_per_image", "400", "--detector.roi.sampling.positive_fraction", "0.5"),
    *("--model", "faster_rcnn", "--lr", "0.01", "--gradient_clip_val", "1", "--train_split", "train", "--ema", "0.5"),
)


@pytest.fixture(scope="module")
def sparse_data(tiny_data, tmp_path_factory):
    """Most images to train on hold no object, so that some processes get batches without any."""
    folder = tmp_path_factory.mktemp("sparse")
    (folder / "images").symlink_to(tiny_data / "images")
    (folder / "val.json").write_text((tiny_data / "val.json").read_text())
    records = json.loads((tiny_data / "train.json").read_text())
    records["annotations"] = [a for a in records["annotations"] if a["image_id"] <= 4]
    (folder / "train.json").write_text(json.dumps(records))
    return folder


def test_some_process_gets_a_batch_without_objects(sparse_data):
    """Check the precondition of the next test."""
    dataset, _ = read(sparse_data, "train")
    settings = {"size": (64, 96), "batch_size": 2, "training": True, "world_size": 2}
    loaders = [make_loader(dataset, rank=rank, **settings) for rank in range(2)]
    objects = [[int((batch.labels >= 0).sum()) for batch in loader] for loader in loaders]
    assert any((a == 0) != (b == 0) for a, b in zip(*objects, strict=True))


def test_two_processes_equal_one(sparse_data, tiny, tmp_path, start):
    two, _ = train_in_two_and_one(sparse_data, tiny, tmp_path, start)
    measured = json.loads((two / "metrics.json").read_text())
    alone = evaluate(two / "best.safetensors", sparse_data, batch_size=2, num_workers=0, progress=False)
    assert {name: measured[name] for name in alone} == alone


@pytest.mark.slow
@pytest.mark.parametrize("model", ["faster_rcnn", "mask_rcnn"])
def test_two_processes_on_tiles_equal_one(sparse_data, tiny, tmp_path, start, model):
    """Tiles without objects are thinned; a process validates whole images, of which the other has another number."""
    tiles = ("--tiles", "96", "0.25", "--tile_min_area_ratio", "0.3", "--tile_empty_fraction", "0.4", "--model", model)
    # Samplers that take every candidate have masks for all of them.
    mask_head = ("--detector.mask.channels", "8", "--detector.mask.num_convs", "1") if model == "mask_rcnn" else ()
    two, one = train_in_two_and_one(sparse_data, tiny, tmp_path, start, *tiles, *mask_head)
    measured = json.loads((two / "metrics.json").read_text())
    alone = evaluate(two / "best.safetensors", sparse_data, batch_size=2, tiles=(96, 0.25), progress=False)
    assert {name: measured[name] for name in alone} == alone
    assert ("mask_AP" in alone) == (model == "mask_rcnn")
    assert rows(two) == rows(one)


@pytest.mark.slow
def test_two_processes_with_repeated_images_equal_one_and_are_resumed(sparse_data, tiny, tmp_path, start):
    repeats = ("--repeat_factor_thresh", "1")
    two, one = train_in_two_and_one(sparse_data, tiny, tmp_path, start, *repeats)
    done = [read_checkpoint(path / "last.ckpt")["libradet"]["batches_done"] for path in (two, one)]
    dataset, _ = read(sparse_data, "train")
    assert done[0] == done[1] > -(-len(dataset) // 4), "or no image is repeated"
    resumed = tmp_path / "resumed"
    milestones = ("--lr_milestones", "0.667", "0.917")  # of the whole run, not of its first step
    settings = (*EVERYTHING, *repeats, *milestones, "--max_epochs", "1", "--devices", "2")
    run = start(tiny(sparse_data, resumed, *settings, "--max_steps", "1"), processes=2)
    assert run.wait() == [0, 0], run.said
    run = start(["train", "--resume", resumed, "--max_steps", str(done[0])], processes=2)
    assert run.wait() == [0, 0], run.said
    states = [read_checkpoint(path / "last.ckpt")["state_dict"] for path in (two, resumed)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def train_in_two_and_one(data, tiny, folder, start, *options):
    """Train with two processes and with one, and return the folders once their weights are equal."""
    two, one = folder / "two", folder / "one"
    settings = (*EVERYTHING, *options, "--max_epochs", "1")
    run = start(tiny(data, two, *settings, "--devices", "2"), processes=2)
    assert main(tiny(data, one, *settings, "--batch_size", "4")) == 0
    assert run.wait() == [0, 0], run.said
    states = [read_checkpoint(path / "last.ckpt")["state_dict"] for path in (two, one)]
    for name, value in states[0].items():
        torch.testing.assert_close(
            value, states[1][name], rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )
    return two, one


def test_two_processes_stop_together_and_are_resumed(sparse_data, tiny, tmp_path, start):
    out = tmp_path / "run"
    run = start(
        tiny(sparse_data, out, "--devices", "2", "--max_epochs", "200", "--check_val_every_n_epoch", "200"), processes=2
    )
    wait_for(lambda: len(rows(out)) >= 1, run)
    run.send(signal.SIGTERM)
    assert run.wait() == [143, 0], run.said
    assert run.said.count("--resume") == 1, run.said
    assert "Traceback" not in run.said
    done = read_checkpoint(out / "last.ckpt")["libradet"]["batches_done"]
    run = start(["train", "--resume", out, "--max_steps", str(done + 2)], processes=2)
    assert run.wait() == [0, 0], run.said
    assert read_checkpoint(out / "last.ckpt")["libradet"]["batches_done"] == done + 2


def test_two_processes_fail_together(sparse_data, tiny, tmp_path, start):
    out = tmp_path / "run"
    diverging = ("--lr", "1e12", "--gradient_clip_val", "null", "--warmup_steps", "0")
    run = start(tiny(sparse_data, out, "--devices", "2", *diverging), processes=2)
    assert run.wait() == [2, 0], run.said
    assert run.said.count("not finite") == 1, run.said


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_process_ends_the_other_with_one_line(sparse_data, tiny, tmp_path, start, rank):
    out = tmp_path / "run"
    settings = (
        "--devices",
        "2",
        "--max_epochs",
        "200",
        "--check_val_every_n_epoch",
        "200",
        "--save_every_n_steps",
        "1",
    )
    run = start(tiny(sparse_data, out, *settings), processes=2)
    wait_for(lambda: len(rows(out)) >= 2, run)
    run.send(signal.SIGKILL, rank)
    codes = run.wait()
    assert sorted(codes) == [-signal.SIGKILL, 2], run.said
    assert "another process of this run has ended" in run.said
    assert f"--resume {out}" in run.said
    assert "Traceback" not in run.said


def test_another_number_of_processes_cannot_resume(sparse_data, tiny, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(tiny(sparse_data, out, "--max_steps", "1")) == 0
    assert main(["train", "--resume", str(out), "--devices", "2", "--max_steps", "2"]) == 2
    assert "world_size" in capsys.readouterr().err


@pytest.mark.slow
def test_one_command_starts_its_processes(sparse_data, tiny, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "libradet", *tiny(sparse_data, out, "--devices", "2", "--max_steps", "2")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("folder") == 1, "only one of them speaks"
    assert read_checkpoint(out / "last.ckpt")["libradet"]["run_identity"]["world_size"] == 2
