"""Exported files that several tests share: exporting takes seconds."""

import os
from pathlib import Path

import onnx
import pytest
from filelock import FileLock
from onnx import TensorProto, helper

from libradet.cli import main
from libradet.models.serialization import load_model, save_model
from tests.helpers.exported_detectors import ExportedPair, shape_checks_disabled, small_detector


@pytest.fixture(scope="session")
def mask_rcnn_onnx(tmp_path_factory) -> ExportedPair:
    """Mask R-CNN with a balanced pyramid, as ONNX."""
    # Of all workers of this run, the first to come exports the file.
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = tmp_path_factory.getbasetemp().parent / f"mask_rcnn-{run}"
    folder.mkdir(exist_ok=True)
    pair = ExportedPair(small_detector("libra_mask_rcnn"), folder / "model.safetensors", folder / "model.onnx")
    with FileLock(folder / "lock"), shape_checks_disabled():
        if not pair.exported.is_file():
            save_model(pair.model, pair.weights)
            assert main(["export", str(pair.weights), "--format", "onnx", "--output", str(pair.exported)]) == 0
    return pair._replace(model=load_model(pair.weights))


@pytest.fixture(scope="session")
def foreign_onnx(tmp_path_factory) -> Path:
    """A valid ONNX file that is not a detector."""
    path = tmp_path_factory.mktemp("foreign") / "plain.onnx"
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "plain", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path
