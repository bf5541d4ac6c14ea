import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import libradet
from libradet.cli import main
from libradet.data.transforms.resize import target_size
from libradet.errors import UserError
from libradet.export.metadata import build_metadata
from libradet.export.onnx_format import calibration_inputs
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


def test_calibration_images_are_resized_where_the_graph_does_not_resize():
    detector, image = small_detector("rpn"), np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    assert calibration_inputs([image], build_metadata(detector))[0] is image
    resized = calibration_inputs([image], build_metadata(detector, embed_preprocess=False))[0]
    assert resized.shape == (*target_size(30, 50, detector.image_size), 3)
    assert resized.shape != image.shape


def test_nothing_is_computed_in_float64(mask_rcnn_onnx):
    """Several runtimes compute float64 in float32 without a warning."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(mask_rcnn_onnx.exported), data_prop=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    attributes = [(node.name, attribute) for node in graph.node for attribute in node.attribute]
    types |= {name: attribute.t.data_type for name, attribute in attributes if attribute.HasField("t")}
    types |= {name: attribute.i for name, attribute in attributes if attribute.name == "to"}
    assert len(types) > len(graph.node), "most tensors have a known type"
    assert not [name for name, kind in types.items() if kind == TensorProto.DOUBLE]
