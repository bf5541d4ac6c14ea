"""Files for images of one shape have constant sizes, operators of fixed size, and the detections of their detector."""

import numpy as np
import onnx
import pytest
from PIL import Image

import libradet
from libradet.cli import main
from libradet.errors import UserError
from libradet.models.serialization import save_model
from libradet.models.zoo import MODELS
from tests.export.test_exporter import assert_same
from tests.helpers.exported_detectors import scene, shape_checks_disabled, small_detector

STATIC = (2, 101, 150)


def export_static(name, path):
    model = small_detector(name)
    with shape_checks_disabled():
        libradet.export_model(model, path, static=STATIC)
    return model, libradet.load_model(path)


@pytest.fixture(scope="module")
def static_rpn(tmp_path_factory):
    path = tmp_path_factory.mktemp("static") / "rpn.onnx"
    return *export_static("rpn", path), path


def test_same_detections_for_any_number_of_images(static_rpn):
    model, exported, _ = static_rpn
    for count in (1, 2, 3):
        assert_same(model, exported, [scene(*STATIC[1:], seed) for seed in range(count)])


def test_sizes_are_constants_and_operators_of_fixed_size(static_rpn):
    graph = onnx.shape_inference.infer_shapes(onnx.load(static_rpn[2]), data_prop=True).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    sides = [side for value in values for side in value.type.tensor_type.shape.dim]
    assert all(side.HasField("dim_value") for side in sides)
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [*STATIC, 3]
    operators = {node.op_type for node in graph.node}
    assert not operators & {"NonZero", "ScatterND", "NonMaxSuppression", "RoiAlign", "Shape", "Range", "If"}


def test_images_of_another_size_are_refused(static_rpn):
    with pytest.raises(UserError, match=r"is for images of 101 x 150 pixels .* has 100 x 150"):
        static_rpn[1].predict(scene(100, 150))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--static", "0", "64", "64"], "static is 0 64 64"),
        (["--static", "1", "64", "40000"], "at most 32768"),
        (["--static", "1", "64"], "--static"),
        (["--static", "1", "64", "64", "--int8", "--calibration_images", "a.png"], "leave out the static shape"),
    ],
)
def test_invalid_shapes(argv, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    save_model(small_detector("rpn"), tmp_path / "model.safetensors")
    Image.fromarray(scene(40, 40)).save(tmp_path / "a.png")
    assert main(["export", "model.safetensors", "--output", "model.onnx", *argv]) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
@pytest.mark.parametrize("name", MODELS)
def test_every_entry_of_the_zoo(name, suffix, tmp_path):
    model, exported = export_static(name, tmp_path / f"model.{suffix}")
    assert_same(model, exported, [scene(*STATIC[1:], seed) for seed in range(3)])


@pytest.mark.slow
def test_images_that_are_resized_before(tmp_path):
    model = small_detector("libra_retinanet")
    with shape_checks_disabled():
        libradet.export_model(model, tmp_path / "model.pt2", static=(1, 96, 128), embed_preprocess=False)
    exported = libradet.load_model(tmp_path / "model.pt2")
    ours, theirs = (m.predict(scene(96, 128), score_thresh=0.1) for m in (model, exported))
    np.testing.assert_allclose(theirs.xyxy, ours.xyxy, atol=1e-2)
    np.testing.assert_allclose(theirs.confidence, ours.confidence, atol=1e-3)
