"""Plots of a training run."""

import csv

import numpy as np
import pytest
from PIL import Image

from libradet.errors import UserError
from libradet.evaluation.curves import plot_curves, read_metrics, smooth


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted({k for r in rows for k in r}))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def metrics(tmp_path):
    training = [
        {"step": s, "epoch": s // 10, "train/loss": 5 / (s + 1), "loss_box": 1 / (s + 1), "lr": 0.01} for s in range(40)
    ]
    training[7]["train/loss"] = float("nan")
    measured = [{"step": 10 * e + 9, "epoch": e, "val/AP": 0.1 * e, "val/AP50": 0.2 * e} for e in range(4)]
    (tmp_path / "run").mkdir()
    return write(tmp_path / "run" / "metrics.csv", training + measured)


def test_blank_and_infinite_values_are_skipped(metrics):
    series = read_metrics(metrics)
    assert set(series) == {"epoch", "loss", "loss_box", "lr", "AP", "AP50"}
    assert series["AP"].steps.tolist() == [9, 19, 29, 39]
    assert series["AP"].values.tolist() == pytest.approx([0, 0.1, 0.2, 0.3])
    assert series["loss"].steps.tolist() == [s for s in range(40) if s != 7]
    assert series["loss_box"].values[3] == 1 / 4


def test_smoothing_preserves_lines_and_ignores_outliers():
    line = np.linspace(3, 1, 50)
    np.testing.assert_allclose(smooth(line, 7)[7:-7], line[7:-7])
    wild = line.copy()
    wild[20] = 1e6
    np.testing.assert_allclose(smooth(wild, 7), smooth(line, 7), atol=0.1)
    np.testing.assert_array_equal(smooth(line, 1), line)
    np.testing.assert_array_equal(smooth(line[:1], 9), line[:1])


def test_plot_is_written(metrics, tmp_path):
    out = plot_curves(metrics, tmp_path / "new" / "curves.png")
    with Image.open(out) as image:
        drawn = {color for _, color in image.convert("RGB").getcolors(2**24)}
    assert image.width > 1000
    assert image.height > 800
    assert {(0x1A, 0x1A, 0x1A), (0x00, 0x72, 0xB2)} <= drawn


def test_empty_panels_are_omitted(tmp_path):
    rows = [{"step": s, "loss": 1.0} for s in range(3)]
    losses_only = plot_curves(write(tmp_path / "a.csv", rows), tmp_path / "a.png")
    both = plot_curves(write(tmp_path / "b.csv", [r | {"AP": 0.5} for r in rows]), tmp_path / "b.png")
    assert Image.open(losses_only).height < Image.open(both).height


def test_nothing_to_plot(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_metrics(tmp_path / "absent.csv")
    with pytest.raises(UserError, match="no rows yet"):
        read_metrics(write(tmp_path / "empty.csv", [{"step": 0, "loss": ""}]))
    with pytest.raises(UserError, match="neither"):
        plot_curves(write(tmp_path / "other.csv", [{"step": 0, "speed": 3.0}]), tmp_path / "x.png")
