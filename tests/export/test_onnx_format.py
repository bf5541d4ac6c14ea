import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import libradet
from libradet.cli import main
from libradet.data.transforms.resize import target_size
from libradet.errors import UserError
from libradet.export.metadata import build_metadata
from libradet.export.onnx_format import calibration_inputs, quantize
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


def test_sums_of_quantized_products_do_not_exceed_16_bits(tmp_path):
    """Without VNNI instructions, two products of eight bits are summed in 16."""
    weight = numpy_helper.from_array(np.full((4, 3, 1, 1), 0.01, np.float32), "weight")
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "weight"], ["y"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 8, 8, 3])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "graph", [images], [output], [weight])
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "model.onnx")
    image = np.full((8, 8, 3), 255, np.uint8)
    quantize(tmp_path / "model.onnx", [image])
    initializers = [numpy_helper.to_array(own) for own in onnx.load(tmp_path / "model.onnx").graph.initializer]
    (largest,) = (np.abs(own).max() for own in initializers if own.ndim == 4)
    assert 32 < largest <= 64
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"images": image[None]})[0], 3 * 255 * 0.01, rtol=0.02)


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
