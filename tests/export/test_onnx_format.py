import sys

import numpy as np
import pytest

import libradet
from libradet.cli import main
from libradet.errors import UserError
from libradet.models.serialization import save_model
from tests.helpers.exported_detectors import small_detector


def test_missing_packages_are_named(tmp_path, monkeypatch, foreign_onnx, capfd):
    save_model(small_detector("rpn"), tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"onnxruntime: pip install '\.\[export\]'"):
        libradet.load_model(foreign_onnx)
    assert main(["export", str(tmp_path / "model.safetensors"), "--output", str(tmp_path / "new.onnx")]) == 2
    assert "pip install '.[export]'" in capfd.readouterr().err
    assert not (tmp_path / "new.onnx").exists()


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("rpn", "model.pt2", "INT8 quantization is for .onnx files"),
        ("fast_rcnn", "model.onnx", "also needs proposals"),
    ],
)
def test_quantization_that_is_not_supported(name, file, message, tmp_path):
    images = [np.zeros((8, 8, 3), np.uint8)]
    with pytest.raises(UserError, match=message):
        libradet.export_model(small_detector(name), tmp_path / file, calibration_images=images)
    assert not list(tmp_path.iterdir())
