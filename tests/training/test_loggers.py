"""Tests of metrics.csv."""

import csv

import pytest

from libradet.errors import UserError
from libradet.evaluation.curves import read_metrics
from libradet.training.config import TrainConfig
from libradet.training.loggers import CSVMetricsLogger, refuse_unlogged

TRAINED = {"train/loss": 1.5, "train/lr": 0.1, "train/loss_class": 1.0, "train/loss_box": 0.5}


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def filled(folder):
    logger = CSVMetricsLogger(folder, ("AP", "AP50"))
    for step in range(1, 7):
        epoch = {"epoch": (step - 1) // 2}
        logger.log_metrics(TRAINED | epoch, step)
        logger.log_metrics({"lr-SGD": 0.1}, step)
        if step % 2 == 0:
            logger.log_metrics({"val/AP": [0.0, 0.3, 0.2][step // 2 - 1], "val/AR1": 0.9} | epoch, step)


def test_rows_of_training_and_validation(tmp_path):
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


def test_rows_of_steps_that_are_repeated_are_removed(tmp_path):
    filled(tmp_path)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("7,3,0.1")  # cut off by a kill
    logger = CSVMetricsLogger(tmp_path, ("AP", "AP50"), step=4)
    assert [r["step"] for r in rows(tmp_path)] == ["1", "2", "2", "3", "4", "4"]
    assert logger.has_validation_row(4)
    assert not logger.has_validation_row(3)
    assert not logger.has_validation_row(6)
    logger.log_metrics(TRAINED | {"epoch": 2}, 5)
    assert rows(tmp_path)[-1]["loss_box"] == "0.5"


def test_a_validation_without_objects_has_a_row(tmp_path):
    logger = CSVMetricsLogger(tmp_path, ("AP",))
    logger.log_metrics({"epoch": 0}, 3)
    assert logger.has_validation_row(3)


@pytest.mark.parametrize("name", ["log_lr", "log_device_stats"])
def test_values_without_a_column_need_another_logger(name):
    refuse_unlogged(TrainConfig("x", **{name: True}))
    refuse_unlogged(TrainConfig("x", logger=["csv"]))
    for logger in ([], ["csv"]):
        with pytest.raises(UserError, match=f"^{name}: metrics.csv has no column for it"):
            refuse_unlogged(TrainConfig("x", logger=logger, **{name: True}))
