"""A run that is killed or interrupted, and resumed, ends like one that was not."""

import gc
import os
import signal
import threading

import pytest
import torch
from safetensors.torch import load_file

from libradet.cli import main
from libradet.training.resume import read_checkpoint
from tests.helpers.launching import wait_for
from tests.helpers.training_runs import SETTINGS, assert_same, rows, weights


@pytest.fixture(scope="module")
def untouched(tiny_data, tiny, tmp_path_factory):
    """A run that was not interrupted."""
    out = tmp_path_factory.mktemp("untouched") / "run"
    assert main(tiny(tiny_data, out, *SETTINGS)) == 0
    return out


def test_killed_within_an_epoch(untouched, tiny_data, tiny, tmp_path, start):
    out = tmp_path / "run"
    run = start(tiny(tiny_data, out, *SETTINGS))
    wait_for(lambda: len(rows(out)) >= 5, run)
    run.send(signal.SIGKILL)
    assert run.wait() == [-signal.SIGKILL]
    done = read_checkpoint(out / "last.ckpt")["libradet"]["batches_done"]
    assert done % 6 != 0, "this test is about a kill in the middle of an epoch"
    assert done < 18
    assert main(["train", "--resume", str(out)]) == 0
    assert_same(weights(out), weights(untouched))
    assert rows(out) == rows(untouched)
    best, expected = load_file(out / "best.safetensors"), load_file(untouched / "best.safetensors")
    assert all(torch.equal(best[name], value) for name, value in expected.items())


@pytest.mark.slow
def test_a_cache_changes_nothing_and_is_deleted(untouched, tiny_data, tiny, tmp_path, capfd):
    out = tmp_path / "run"
    assert main(tiny(tiny_data, out, *SETTINGS, "--cache", "disk", "--num_workers", "1")) == 0
    assert_same(weights(out), weights(untouched))
    gc.collect()
    assert not list(out.glob("*.cache"))
    assert "0.3 MB of images for each process, in the run folder" in " ".join(capfd.readouterr().out.split())


@pytest.mark.parametrize(
    ("signum", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_stopped_by_a_signal(untouched, tiny_data, tiny, tmp_path, capfd, signum, code):
    out = tmp_path / "run"
    before = signal.getsignal(signum)

    def stop():
        wait_for(lambda: len(rows(out)) >= 2)
        os.kill(os.getpid(), signum)

    thread = threading.Thread(target=stop)
    thread.start()
    assert main(tiny(tiny_data, out, *SETTINGS)) == code
    thread.join()
    assert signal.getsignal(signum) == before
    said = capfd.readouterr().err
    assert f"--resume {out}" in said
    assert "Traceback" not in said
    done = read_checkpoint(out / "last.ckpt")["libradet"]["batches_done"]
    assert 4 <= done < 18
    assert main(["train", "--resume", str(out)]) == 0
    assert_same(weights(out), weights(untouched))
    assert rows(out) == rows(untouched)


@pytest.mark.parametrize("limit", [pytest.param("--max_epochs", marks=pytest.mark.slow), "--max_steps"])
def test_stopped_between_two_epochs(tiny_data, tiny, tmp_path, limit):
    """The end of a shortened run is the end of an epoch of a longer one."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    first, second = ("1", "2") if limit == "--max_epochs" else ("6", "8")
    fixed = ("--lr_milestones", "[]", "--warmup_steps", "0", "--ema", "0.9")
    assert main(tiny(tiny_data, whole, *fixed, limit, second)) == 0
    assert main(tiny(tiny_data, parts, *fixed, limit, first)) == 0
    assert main(["train", "--resume", str(parts), limit, second]) == 0
    assert_same(weights(parts), weights(whole))
