"""Damaged files, full disks and changed data in a run that is resumed."""

import errno
import json
import resource
import shutil

import numpy as np
import pytest
import torch

from libradet.cli import main
from libradet.errors import UserError
from libradet.training.resume import check_integrity, read_checkpoint
from libradet.utils.atomic_io import atomic_write
from tests.helpers.training_runs import SETTINGS, assert_same, weights

FIXED = (*SETTINGS, "--lr_milestones", "[]", "--warmup_steps", "0")


@pytest.fixture(scope="module")
def stopped(tiny_data, tiny, tmp_path_factory):
    """A run that has done four of its nine steps, and has two checkpoints."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    assert main(tiny(tiny_data, out, *FIXED, "--max_steps", "4")) == 0
    return out


@pytest.fixture(scope="module")
def untouched(tiny_data, tiny, tmp_path_factory):
    """The same run, to its sixth step."""
    out = tmp_path_factory.mktemp("untouched") / "run"
    assert main(tiny(tiny_data, out, *FIXED, "--max_steps", "6")) == 0
    return out


@pytest.fixture
def run(stopped, tmp_path):
    """A copy of the stopped run."""
    return shutil.copytree(stopped, tmp_path / "run")


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-1000])


def test_a_damaged_checkpoint_is_replaced_by_the_previous_one(run, untouched, capsys):
    assert check_integrity(run / "previous.ckpt") == ""
    cut_off(run / "last.ckpt")
    capsys.readouterr()
    assert main(["train", "--resume", str(run), "--max_steps", "6"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "from previous.ckpt: last.ckpt is damaged" in said
    assert_same(weights(run), weights(untouched))


@pytest.mark.slow
def test_a_kill_between_the_two_renames(run, untouched, capsys):
    (run / "last.ckpt").unlink()
    assert main(["train", "--resume", str(run), "--max_steps", "6"]) == 0
    assert "last.ckpt is missing" in " ".join(capsys.readouterr().out.split())
    assert_same(weights(run), weights(untouched))


def test_a_run_without_an_intact_checkpoint_is_refused(run, capsys):
    for name in ("last.ckpt", "previous.ckpt"):
        cut_off(run / name)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert main(["train", "--resume", str(run)]) == 2
    said = capsys.readouterr().err
    assert "last.ckpt is damaged" in said
    assert "previous.ckpt is damaged" in said
    assert len(said.strip().splitlines()) == 1
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_every_relevant_bit_flip_is_detected(stopped, tmp_path):
    """Each flipped bit is detected, or is one that is not read."""
    whole, path = (stopped / "last.ckpt").read_bytes(), tmp_path / "last.ckpt"
    assert check_integrity(stopped / "last.ckpt") == ""
    expected = flat(read_checkpoint(stopped / "last.ckpt"))
    chance, found = np.random.default_rng(0), 0
    for place in chance.integers(0, len(whole), 150):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(chance.integers(8))
        path.write_bytes(changed)
        if check_integrity(path):
            found += 1
            continue
        assert flat(read_checkpoint(path)) == expected
    assert found > 75


def flat(content):
    """Everything in a checkpoint, as values that can be compared."""
    if isinstance(content, dict):
        return {key: flat(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [flat(value) for value in content]
    return content.numpy().tobytes() if isinstance(content, torch.Tensor) else content


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("change", ["box", "class", "order"])
def test_changed_images_are_refused_by_name(run, tiny_data, tmp_path, capsys, split, change):
    data = tmp_path / "data"
    data.mkdir()
    (data / "images").symlink_to(tiny_data / "images")
    for name in ("train.json", "val.json"):
        shutil.copy(tiny_data / name, data / name)
    # Elsewhere, but the same.
    content = json.loads((data / f"{split}.json").read_text())
    record, (first, second) = content["annotations"][0], (c["id"] for c in content["categories"])
    named = next(image["file_name"] for image in content["images"] if image["id"] == record["image_id"])
    if change == "box":
        record["bbox"][2] -= 0.5
    elif change == "class":
        record["category_id"] = second if record["category_id"] == first else first
    else:
        content["images"].reverse()
        named = "another order"
    (data / f"{split}.json").write_text(json.dumps(content))
    assert main(["train", "--resume", str(run), "--data", str(data)]) == 2
    said = capsys.readouterr().err
    assert named.split("/")[-1] in said
    assert f"{split} has changed" in said


def test_the_dataset_may_move(run, tiny_data, tmp_path):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    assert main(["train", "--resume", str(run), "--data", str(data), "--max_steps", "5"]) == 0


@pytest.mark.parametrize("half", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_full_disk_ends_a_run_with_one_line(tiny_data, tiny, tmp_path, capsys, monkeypatch, half):
    out, save, done = tmp_path / "run", torch.save, []

    def fails_later(content, path):
        done.append(path)
        if len(done) < 3:
            return save(content, path)
        if half:
            save(content, path)
            cut_off(path)
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(torch, "save", fails_later)
    assert main(tiny(tiny_data, out, *SETTINGS)) == 2
    said = capsys.readouterr().err
    assert "cannot be written (No space left on device)" in said
    assert len(said.strip().splitlines()) == 1
    assert check_integrity(out / "last.ckpt") == ""
    assert read_checkpoint(out / "last.ckpt")["global_step"] == 2
    assert not list(out.glob("*.partial"))


@pytest.mark.parametrize("limit", [0, 5_000, 300_000])
def test_a_write_error_is_reported_with_the_systems_message(tmp_path, limit):
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, usual[1]))
    try:
        with pytest.raises(UserError) as refused, atomic_write(tmp_path / "last.ckpt") as partial:
            torch.save(torch.zeros(200_000), partial)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert str(refused.value) == f"{tmp_path / 'last.ckpt'}: cannot be written (File too large)"
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_reported_for_metrics_csv(tiny_data, tiny, tmp_path, capsys, monkeypatch):
    from libradet.training.loggers import CSVMetricsLogger

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.csv")

    monkeypatch.setattr(CSVMetricsLogger, "_append", full)
    assert main(tiny(tiny_data, tmp_path / "run")) == 2
    said = capsys.readouterr().err
    assert "metrics.csv: cannot be written (No space left on device)" in said
    assert f"--resume {tmp_path / 'run'}" in said


def test_weights_that_are_not_finite_are_not_saved(tiny_data, tiny, tmp_path, capsys):
    out = tmp_path / "run"
    assert (
        main(
            tiny(
                tiny_data,
                out,
                "--lr",
                "3e38",
                "--gradient_clip_val",
                "null",
                "--warmup_steps",
                "0",
                "--save_every_n_steps",
                "1",
            )
        )
        == 2
    )
    said = capsys.readouterr().err
    assert "not finite (step 1" in said
    assert "last.ckpt" not in said, "there is none"
    assert not (out / "last.ckpt").exists()


def test_damaged_metrics_are_refused(run, capsys):
    (run / "metrics.json").write_text('{"AP": 0.')
    assert main(["train", "--resume", str(run)]) == 2
    assert "metrics.json" in capsys.readouterr().err
