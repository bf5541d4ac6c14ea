"""Training processes: stopped with a checkpoint, and resumed by the next attempt."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from libradet.data.synthesis.synthetic import synthesize
from libradet.errors import UserError
from libradet.experiments.launcher import LOG, RESULT, Launcher, _metrics_by_validation, make_run
from libradet.training.run_files import METRICS_CSV


def test_close_stops_runs_started_where_ctrl_c_is_ignored(tmp_path):
    """A shell script's ``libradet reproduce ... &`` ignores SIGINT, and its child processes inherit that."""
    synthesize(tmp_path / "data", train=8, val=4, size=(96, 80), classes=2)
    settings = {"model": "rpn", "data": str(tmp_path / "data"), "backbone": "resnet18", "max_epochs": 10_000}
    run, launcher = make_run(tmp_path / "runs", settings, seed=0), Launcher(threads=1)
    previous_handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(launcher.execute, run)
            while not (run.folder / LOG).exists():
                time.sleep(0.01)
            launcher.close()
            with pytest.raises(UserError, match="run the same command again to resume"):
                future.result(timeout=60)
    finally:
        signal.signal(signal.SIGINT, previous_handler)


@pytest.mark.parametrize("exit_code", [0, 2])
@pytest.mark.parametrize("is_interrupted", [False, True])
def test_a_finished_run_without_proposals_of_all_splits_writes_them(exit_code, is_interrupted, tmp_path, monkeypatch):
    """A table may have finished it that needs none, or an older version was interrupted between two splits."""
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").touch()
    settings = {"model": "rpn", "data": str(tmp_path)}
    plain, run = make_run(tmp_path, settings, 0), make_run(tmp_path, settings, 0, writes_proposals=True)
    assert plain.folder == run.folder
    run.folder.mkdir()
    (run.folder / RESULT).write_text('{"metrics": {"AR100": 0.5}, "seconds": 1}')
    (run.folder / LOG).write_text("libradet: error: no space left\n")
    if is_interrupted:
        run.proposals.mkdir()
        (run.proposals / "train.safetensors").touch()
    commands = []

    def call(launcher, arguments, run, lock):
        commands.append(arguments[0])
        partial = run.folder / "proposals.partial"
        partial.mkdir(exist_ok=True)
        for split in ("train", "val"):
            (partial / f"{split}.safetensors").write_text("new")
        return exit_code

    monkeypatch.setattr(Launcher, "_call", call)
    launcher = Launcher(threads=1)
    assert launcher.execute(plain) == run.result
    assert not commands
    if exit_code:
        for _ in range(2):
            with pytest.raises(UserError, match="predict exited with code 2: no space left"):
                launcher.execute(run)
        assert commands == ["predict"] * 2
    else:
        for _ in range(2):
            assert launcher.execute(run) == run.result
        assert commands == ["predict"]
        assert [path.read_text() for path in sorted(run.proposals.iterdir())] == ["new"] * 2


def test_failed_runs_write_no_proposals(tmp_path, monkeypatch):
    (tmp_path / "val.json").touch()
    run = make_run(tmp_path, {"model": "rpn", "data": str(tmp_path)}, 0, writes_proposals=True)
    run.folder.mkdir()
    (run.folder / RESULT).write_text('{"failure": "loss is not finite", "seconds": 1}')
    monkeypatch.setattr(Launcher, "_call", lambda *_: pytest.fail("a process was started"))
    assert Launcher(threads=1).execute(run) == run.result


def test_metrics_of_each_validation_are_numbered(tmp_path):
    run = make_run(tmp_path, {"model": "rpn"}, seed=0)
    run.folder.mkdir()
    (run.folder / METRICS_CSV).write_text("step,epoch,loss,AP,APl\n10,0,1.5,,\n12,0,,0.25,\n20,1,1.2,,\n24,1,,0.5,\n")
    assert _metrics_by_validation(run, ["AP", "APl", "AR1"]) == {"AP@1": 0.25, "AP@2": 0.5}
