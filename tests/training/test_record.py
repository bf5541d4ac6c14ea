"""What a run writes down, and how losses are read."""

import csv
import json
import math

import lightning.pytorch as pl
import pytest
import torch
from rich.console import Console

from libradet.evaluation.curves import read_metrics
from libradet.training.checkpoints import BestWeights
from libradet.training.loggers import RunCSV
from libradet.training.module import LossWatch
from libradet.training.progress import RunProgress

LOSSES = {"class": 1.0, "box": 0.5}
TRAINED = {"train/loss": 1.5, "train/lr": 0.1, "train/loss_class": 1.0, "train/loss_box": 0.5}


def trainer():
    return pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def filled(folder):
    book = RunCSV(folder, ("AP", "AP50"))
    for step in range(1, 7):
        epoch = {"epoch": (step - 1) // 2}
        book.log_metrics(TRAINED | epoch, step)
        book.log_metrics({"lr-SGD": 0.1}, step)
        if step % 2 == 0:
            book.log_metrics({"val/AP": [0.0, 0.3, 0.2][step // 2 - 1], "val/AR1": 0.9} | epoch, step)


def test_rows_of_training_and_of_measurements(tmp_path):
    filled(tmp_path)
    found = rows(tmp_path)
    assert [r["step"] for r in found] == ["1", "2", "2", "3", "4", "4", "5", "6", "6"], "nothing without a column"
    assert found[0]["loss"] == "1.5"
    assert found[0]["loss_class"] == "1"
    assert found[0]["AP"] == ""
    assert found[2]["AP"] == "0"
    assert found[2]["loss"] == ""
    curves = read_metrics(tmp_path / "metrics.csv")
    assert curves["AP"].values.tolist() == [0.0, 0.3, 0.2]


def test_a_run_that_continues_takes_back_what_it_will_do_again(tmp_path):
    filled(tmp_path)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("7,3,0.1")  # cut off by a kill
    book = RunCSV(tmp_path, ("AP", "AP50"), step=4)
    assert [r["step"] for r in rows(tmp_path)] == ["1", "2", "2", "3", "4", "4"]
    assert book.has_measured(4)
    assert not book.has_measured(3)
    assert not book.has_measured(6)
    book.log_metrics(TRAINED | {"epoch": 2}, 5)
    assert rows(tmp_path)[-1]["loss_box"] == "0.5"


def test_a_measurement_of_nothing_is_a_row_too(tmp_path):
    book = RunCSV(tmp_path, ("AP",))
    book.log_metrics({"epoch": 0}, 3)
    assert book.has_measured(3)


@pytest.mark.parametrize(
    ("before", "now", "better"),
    [(None, 0.0, True), (0.3, 0.31, True), (0.3, 0.3, False), (0.3, 0.2, False), (0.3, math.nan, True)],
)
def test_the_best_is_what_was_measured_best(tmp_path, before, now, better):
    """Also when an earlier process measured it; where there is nothing to find, the latest is kept."""
    if before is not None:
        (tmp_path / "metrics.json").write_text(json.dumps({"AP": before}))
    best = BestWeights(tmp_path, "val/AP", print)
    assert best.check_monitor_top_k(trainer(), torch.tensor(now)) == better


def test_losses_come_out_once_and_failures_are_noticed():
    watch = LossWatch()
    watch.put({"class": torch.tensor(1.0, requires_grad=True), "box": torch.tensor(2.0)}, [3, 4])
    (measured,) = watch.take()
    assert measured.losses == {"class": 1.0, "box": 2.0}
    assert measured.images == [3, 4]
    assert watch.take() == []
    assert watch.failure is None
    watch.put({"class": torch.tensor(math.nan), "box": torch.tensor(2.0)}, [5])
    watch.put({"class": torch.tensor(1.0), "box": torch.tensor(math.inf)}, [6])
    watch.poll(wait=True)
    assert watch.failure is not None
    assert watch.failure.images == [5]


def test_what_is_read_beside_losses_is_none_of_them():
    watch = LossWatch()
    watch.put({"class": torch.tensor(1.0)}, [3], {"log_variance_class": torch.tensor(math.inf, requires_grad=True)})
    (measured,) = watch.take()
    assert (measured.losses, measured.beside) == ({"class": 1.0}, {"log_variance_class": math.inf})
    assert measured.finite


class Stage(pl.LightningModule):
    """As much of a module as a bar needs."""

    batches_per_epoch, batches_done = 5, 5


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal_and_lines_in_a_log(tmp_path, terminal):
    with (tmp_path / "log").open("w+") as file:
        console = Console(file=file, force_terminal=terminal, width=160)
        progress = RunProgress(console, epochs=2)
        progress.on_train_start(trainer(), Stage())
        progress.step(9, 2, LOSSES, 12.34)
        progress.step(10, 2, LOSSES, 12.34)
        progress.say("done")
        progress.stop()
        file.seek(0)
        text = file.read()
    assert "epoch 2/2" in text
    assert "loss 1.500 (class 1.000 box 0.500)" in text
    assert "12.3 images/s" in text
    assert "done" in text
    assert ("\x1b[" in text) == terminal


def test_only_the_first_process_shows_progress(capsys):
    progress = RunProgress(Console(), epochs=2, visible=False)
    progress.on_train_start(trainer(), Stage())
    progress.step(10, 2, LOSSES, 1.0)
    progress.say("done")
    progress.stop()
    assert capsys.readouterr().out == ""
