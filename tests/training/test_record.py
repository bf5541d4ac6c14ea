"""What a run writes down, and how losses are read."""

import csv
import math

import pytest
import torch
from rich.console import Console

from libradet.evaluation.curves import read_metrics
from libradet.training.progress import ProgressDisplay
from libradet.training.record import Record
from libradet.training.watch import LossWatch

LOSSES = {"class": 1.0, "box": 0.5}


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def filled(folder):
    record = Record(folder, ("AP", "AP50"))
    for step in range(1, 7):
        record.training(step, (step - 1) // 2, 0.1, 3.0, LOSSES)
        if step % 2 == 0:
            record.measurement(step, (step - 1) // 2, {"AP": [0.0, 0.3, 0.2][step // 2 - 1], "AR1": 0.9})
    record.close()


def test_rows_of_training_and_of_measurements(tmp_path):
    filled(tmp_path)
    found = rows(tmp_path)
    assert [r["step"] for r in found] == ["1", "2", "2", "3", "4", "4", "5", "6", "6"]
    assert found[0]["loss"] == "1.5"
    assert found[0]["loss_class"] == "1"
    assert found[0]["AP"] == ""
    assert found[2]["AP"] == "0"
    assert found[2]["loss"] == ""
    curves = read_metrics(tmp_path / "metrics.csv")
    assert curves["AP"].values.tolist() == [0.0, 0.3, 0.2]
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_a_run_that_continues_takes_back_what_it_will_do_again(tmp_path):
    filled(tmp_path)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("7,3,0.1")  # cut off by a kill
    record = Record(tmp_path, ("AP", "AP50"), step=4)
    assert [r["step"] for r in rows(tmp_path)] == ["1", "2", "2", "3", "4", "4"]
    record.training(5, 2, 0.1, 3.0, LOSSES)
    assert rows(tmp_path)[-1]["loss_box"] == "0.5"


def test_the_best_is_what_was_measured_best(tmp_path):
    record = Record(tmp_path, ("AP",))
    assert record.is_best(0.0)
    assert record.is_best(None)
    filled(tmp_path)
    record = Record(tmp_path, ("AP", "AP50"), step=6)
    assert record.is_best(0.31)
    assert not record.is_best(0.3)
    assert record.is_best(None), "where there is nothing to find, the latest is kept"
    assert record.has_measured(6)
    assert not record.has_measured(5)


def test_what_decides_can_be_another_number(tmp_path):
    record = Record(tmp_path, ("AP", "mask_AP"))
    record.measurement(1, 0, {"AP": 0.5, "mask_AP": 0.2})
    assert record.is_best(0.3, "mask_AP")
    assert not record.is_best(0.3, "AP")
    assert not record.is_best(0.2, "mask_AP")


def test_losses_come_out_once_and_failures_are_noticed():
    watch = LossWatch()
    watch.put({"class": torch.tensor(1.0, requires_grad=True), "box": torch.tensor(2.0)}, [3, 4])
    (measured,) = watch.take()
    assert measured.losses == {"class": 1.0, "box": 2.0}
    assert measured.pictures == [3, 4]
    assert watch.take() == []
    assert watch.failure is None
    watch.put({"class": torch.tensor(math.nan), "box": torch.tensor(2.0)}, [5])
    watch.put({"class": torch.tensor(1.0), "box": torch.tensor(math.inf)}, [6])
    watch.poll(wait=True)
    assert watch.failure is not None
    assert watch.failure.pictures == [5]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_on_a_terminal_and_lines_in_a_log(tmp_path, terminal):
    with (tmp_path / "log").open("w+") as file:
        console = Console(file=file, force_terminal=terminal, width=160)
        display = ProgressDisplay(console, 2, 10, 5, visible=True)
        display.start()
        display.step(9, 2, LOSSES, 12.34)
        display.measuring(1, 3)
        display.measured()
        display.step(10, 2, LOSSES, 12.34)
        display.say("done")
        display.stop()
        file.seek(0)
        text = file.read()
    assert "epoch 2/2" in text
    assert "loss 1.500 (class 1.000 box 0.500)" in text
    assert "12.3 images/s" in text
    assert "done" in text
    assert ("\x1b[" in text) == terminal


def test_only_the_first_process_shows_progress(capsys):
    display = ProgressDisplay(Console(), 2, 10, 0, visible=False)
    display.start()
    display.step(10, 2, LOSSES, 1.0)
    display.say("done")
    display.stop()
    assert capsys.readouterr().out == ""
