import sys

import numpy as np
import pytest
from PIL import Image

import libradet
from libradet.cli import main
from libradet.errors import UserError
from libradet.export.verification import max_difference
from tests.helpers.exported_detectors import scene


def test_same_detections_as_in_onnxruntime(mask_rcnn_onnx):
    pytest.importorskip("openvino")
    images = [scene(150, 101, seed) for seed in range(3)]
    runtimes = [libradet.load_model(mask_rcnn_onnx.exported, runtime=name) for name in ("onnxruntime", "openvino")]
    assert runtimes[0].metadata == runtimes[1].metadata
    difference = max_difference(*runtimes, images)
    assert difference.detections > 10
    assert difference.is_small, difference


def test_boxes_whose_iou_equals_the_threshold_are_kept():
    openvino = pytest.importorskip("openvino")
    from openvino import opset9 as ops

    from libradet.export.openvino_format import keep_boxes_at_threshold

    boxes = np.array([[[0, 0, 4, 4], [0, 0, 4, 2]]], np.float32)
    scores = np.array([[[0.9, 0.8]]], np.float32)
    inputs = [ops.parameter(array.shape, np.float32) for array in (boxes, scores)]
    count, threshold, lowest = (ops.constant(value) for value in (np.int64(2), np.float32(0.5), np.float32(0)))
    node = ops.non_max_suppression(*inputs, count, threshold, lowest)
    model = openvino.Model([node.output(2)], inputs)
    kept = []
    for _ in range(2):
        kept.append(int(openvino.compile_model(model, "CPU")([boxes, scores])[0].item()))
        keep_boxes_at_threshold(model)
    assert kept == [1, 2]


def test_files_that_libradet_did_not_write(foreign_onnx):
    pytest.importorskip("openvino")
    with pytest.raises(UserError, match="not a detector that libradet export wrote"):
        libradet.load_model(foreign_onnx, runtime="openvino")
    foreign_onnx.with_name("damaged.onnx").write_bytes(b"damaged")
    with pytest.raises(UserError, match="not a file that OpenVINO can run"):
        libradet.load_model(foreign_onnx.with_name("damaged.onnx"), runtime="openvino")


def test_missing_package_and_other_files_are_named(foreign_onnx, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "openvino", None)
    options = ["--runtime", "openvino", "--output_dir", str(tmp_path / "out")]
    (tmp_path / "model.safetensors").touch()
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    for file, message in ((foreign_onnx, "pip install '.[openvino]'"), (tmp_path / "model.safetensors", ".onnx files")):
        assert main(["predict", str(file), str(tmp_path), *options]) == 2
        error = capfd.readouterr().err
        assert message in error
        assert "Traceback" not in error
