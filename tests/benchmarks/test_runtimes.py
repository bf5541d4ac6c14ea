"""Comparison of a runtime's detections with PyTorch's, and the report of failures."""

import json

import numpy as np
import pytest

from benchmarks.runtimes.comparison import Comparison
from benchmarks.runtimes.outputs import first_error, read_outputs

BOXES = np.array([[[0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 0, 0]]], np.float32)
OUTPUTS = {
    "boxes": BOXES,
    "scores": np.array([[0.9, 0.5, 0.0]], np.float32),
    "labels": np.array([[0, 1, 0]]),
    "valid": np.array([[True, True, False]]),
}


def compare(**changes):
    comparison = Comparison()
    comparison.add(OUTPUTS, OUTPUTS | changes)
    assert comparison.detections == 2
    return comparison


def test_equal_outputs():
    result = compare()
    assert (result.pixels, result.score, result.lost, result.extra) == (0, 0, 0, 0)


def test_order_and_padding_do_not_count():
    order = [1, 0, 2]
    changed = {name: array[:, order] for name, array in OUTPUTS.items()}
    changed["boxes"][0, 2] = 7
    result = compare(**changed)
    assert (result.pixels, result.lost, result.extra) == (0, 0, 0)


@pytest.mark.parametrize(("shift", "lost"), [(0.25, 0), (1.5, 1)])
def test_shifted_box(shift, lost):
    boxes = BOXES.copy()
    boxes[0, 0, 2] += shift
    result = compare(boxes=boxes)
    assert (result.lost, result.extra) == (lost, lost)
    assert result.pixels == (0 if lost else shift)


def test_other_class_other_score_and_missing_detection():
    assert compare(labels=np.array([[0, 2, 0]])).lost == 1
    assert compare(scores=OUTPUTS["scores"] - np.float32(0.02)).lost == 2
    result = compare(valid=np.array([[True, False, False]]))
    assert (result.lost, result.extra) == (1, 0)
    result = compare(valid=np.array([[True, True, True]]))
    assert (result.lost, result.extra) == (0, 1)


def test_mask_cells_that_are_no_numbers():
    masks = np.zeros((1, 3, 2, 2), np.float32)
    comparison = Comparison()
    comparison.add(OUTPUTS | {"masks": masks}, OUTPUTS | {"masks": masks * np.nan})
    assert np.isnan(comparison.mask)


def test_outputs_of_a_runner(tmp_path):
    flat = {name: array.tolist() for name, array in OUTPUTS.items()} | {"boxes": BOXES.ravel().tolist()}
    (tmp_path / "1x8x8.json").write_text(json.dumps(flat | {"seconds": 0.5}))
    outputs, seconds = read_outputs(tmp_path / "1x8x8.json")
    assert seconds == 0.5
    assert outputs.keys() == OUTPUTS.keys()
    np.testing.assert_array_equal(outputs["boxes"], BOXES)


@pytest.mark.parametrize(
    ("log", "code", "message"),
    [
        ("warning\nTraceback\n  file\nValueError: no Scan\n", 1, "ValueError: no Scan"),
        ("a.b.TractError: running pass declutter\nStack backtrace:\n 0: main\n", 1, "a.b.TractError: running pass"),
        ("RuntimeError: /home/x/model.onnx is damaged", 1, "RuntimeError: model.onnx is damaged"),
        ("", -11, "the process ended by SIGSEGV"),
        ("", 3, "exit code 3"),
    ],
)
def test_reason_of_a_failure(log, code, message):
    assert first_error(log, code).startswith(message)
