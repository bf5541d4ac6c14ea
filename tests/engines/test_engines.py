"""Detectors in engines return the detections of the detector in eager mode."""

import importlib.util
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import libradet
from libradet.data.synthesis.synthetic import draw_scene
from libradet.engines import optimize as engines
from libradet.engines.comparison import EngineDifference, is_rounding
from libradet.engines.dense_graph import dense_graph
from libradet.errors import UserError
from libradet.export.exported_model import ExportedModel
from libradet.export.metadata import build_metadata
from libradet.models.box_head import BoxHead
from libradet.models.ops.quantized_layers import QuantizedConv2d, QuantizedLinear, has_int8_layers
from libradet.models.serialization import save_model
from tests.helpers.exported_detectors import shape_checks_disabled
from tests.helpers.tiny_detectors import lively, tiny_batch, tiny_detector, tiny_zoo_config


def small_detector(name="libra_faster_rcnn"):
    config = tiny_zoo_config(name)
    config.image.size = (64, 96)
    return lively(tiny_detector(config))


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("engines")


@pytest.mark.parametrize("engine", ["packed", "onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["libra_faster_rcnn", pytest.param("retinanet", marks=pytest.mark.slow)])
def test_engines_return_the_same_detections(name, engine, cache_dir):
    for package in () if engine == "packed" else ("onnxscript", engine):
        pytest.importorskip(package)
    model = small_detector(name)
    with shape_checks_disabled():
        fast = libradet.optimize(model, engine=engine, cache_dir=cache_dir)
    report = fast.engine_report
    assert (report.engine, report.precision) == (engine, "fp32")
    assert report.difference.relative < 1e-4
    assert report.difference.matched == report.difference.detections > 0
    batch = tiny_batch(size=(64, 128), num_images=3)
    with torch.inference_mode():
        expected, actual = libradet.optimize(model)(batch), fast(batch)
    assert torch.equal(actual.valid, expected.valid)
    assert torch.equal(actual.labels, expected.labels)
    torch.testing.assert_close(actual.boxes, expected.boxes, rtol=0, atol=1e-2)
    torch.testing.assert_close(actual.scores, expected.scores, rtol=0, atol=1e-3)


def draw_images(number=2):
    rng = np.random.default_rng(0)
    return [draw_scene(rng, (96, 64), 3)[0] for _ in range(number)]


@pytest.mark.skipif(not has_int8_layers(), reason="needs oneDNN")
@pytest.mark.parametrize("name", ["faster_rcnn", pytest.param("mask_rcnn", marks=pytest.mark.slow)])
def test_int8_reproduces_detections(name):
    model = small_detector(name)
    fast = libradet.optimize(model, "int8", engine="packed", calibration_images=draw_images())
    report = fast.engine_report
    assert (report.engine, report.precision) == ("packed", "int8")
    assert 0 < report.difference.relative < 0.2
    assert report.difference.matched >= 0.5 * report.difference.detections > 0
    kinds = [type(module) for module in fast.modules()]
    assert kinds.count(QuantizedLinear) == 2
    assert kinds.count(QuantizedConv2d) == (model.config.mask.num_convs if model.config.mask else 0)
    batch = tiny_batch(size=(64, 128), num_images=2)
    with torch.inference_mode():
        first, again = fast(batch), fast(batch)
    assert torch.equal(first.boxes, again.boxes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "packed"}, "int8 needs calibration images"),
        (
            {"engine": "eager", "calibration_images": draw_images(1)},
            "engine eager does not compute in int8: use the engine packed",
        ),
        ({"precision": "fp32", "engine": "packed", "calibration_images": draw_images(1)}, "are for the precision int8"),
    ],
)
def test_int8_needs_the_packed_engine_and_images(settings, message):
    with pytest.raises(UserError, match=message):
        libradet.optimize(small_detector(), **{"precision": "int8"} | settings)


@pytest.mark.skipif(not has_int8_layers(), reason="needs oneDNN")
def test_int8_without_detections_is_refused():
    model = small_detector()
    with torch.no_grad():
        model.roi.logits.bias[-1] = 1e6
    with pytest.raises(UserError, match="the model detects nothing in the calibration images"):
        libradet.optimize(model, "int8", engine="packed", calibration_images=draw_images(1))


def test_int8_is_not_computed_from_what_is_optimized():
    with pytest.raises(UserError, match="int8 and its calibration images are for the engine packed"):
        libradet.api.evaluate(small_detector(), "tests", precision="int8")
    exported = ExportedModel(build_metadata(small_detector()), lambda arrays: arrays)
    with pytest.raises(UserError, match="int8 is computed by the engine packed, from a detector"):
        engines.optimize_predictor(exported, "int8")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_convolutions_return_the_same_detections(precision, cache_dir):
    config = tiny_zoo_config("faster_rcnn")
    # Wide enough for Winograd's convolutions.
    config.image.size, config.pyramid.channels = (64, 96), 64
    model = lively(tiny_detector(config))
    with shape_checks_disabled():
        report = libradet.optimize(model, precision, engine="compiled", cache_dir=cache_dir).engine_report
    assert report.difference.matched >= 0.9 * report.difference.detections > 0


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0", "swin_tiny_patch4_window7_224"])
@pytest.mark.slow
def test_packed_engine_runs_other_backbones(backbone):
    config = tiny_zoo_config("faster_rcnn")
    config.backbone.name, config.image.size, config.pyramid.channels = backbone, (64, 96), 128
    fast = libradet.optimize(lively(tiny_detector(config)), engine="packed")
    assert fast.engine_report.difference.relative < 1e-4


def test_what_cannot_be_traced_is_refused_by_the_packed_engine(monkeypatch):
    model = small_detector()
    original = model.__class__.compute_dense

    def depends_on_data(self, images):
        return original(self, images) if images.sum() > -1e9 else []

    monkeypatch.setattr(model.__class__, "compute_dense", depends_on_data)
    with pytest.raises(UserError, match=r"cannot be traced .*: use the engine eager"):
        libradet.optimize(model, engine="packed")


def test_a_file_is_written_once_for_each_detector(cache_dir, monkeypatch):
    written = []
    monkeypatch.setattr("libradet.engines.dense_graph._write", lambda model, path: written.append(path.write_text("")))
    model = small_detector()
    folder = cache_dir / "files"
    first = dense_graph(model, folder)
    assert dense_graph(model, folder) == first
    assert len(written) == 1
    with torch.no_grad():
        model.rpn.logits.bias.add_(1)
    assert dense_graph(model, folder) != first


def test_several_processes_write_one_file(monkeypatch, tmp_path):
    """Locks hold between threads as between processes."""
    written = []

    def write_slowly(model, path):
        written.append(path)
        time.sleep(0.05)
        path.write_text("graph")

    monkeypatch.setattr("libradet.engines.dense_graph._write", write_slowly)
    model = small_detector()
    with ThreadPoolExecutor(2) as threads:
        paths = list(threads.map(lambda _: dense_graph(model, tmp_path), range(2)))
    assert len(written) == 1
    assert paths[0] == paths[1]
    assert paths[0].read_text() == "graph"


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"\.onnx is not in .*file, which cannot be written .*; set LIBRADET_CACHE_DIR"):
        dense_graph(small_detector(), tmp_path / "file")


def test_an_engine_with_other_detections_is_refused(monkeypatch, cache_dir):
    def wrong_engine(model, optimized, *_):
        return lambda images: [tensor * 1.01 for tensor in optimized.compute_dense(images)]

    monkeypatch.setattr(engines, "_make_dense", wrong_engine)
    monkeypatch.setattr(engines, "choose_engine", lambda *_: ("compiled", "fp32"))
    with pytest.raises(UserError, match="the engine compiled does not compute what this libra_faster_rcnn does"):
        libradet.optimize(small_detector(), engine="compiled", cache_dir=cache_dir)


def test_engines_are_neither_saved_nor_optimized_again(monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "_make_dense", lambda model, optimized, *_: optimized.compute_dense)
    monkeypatch.setattr(engines, "choose_engine", lambda *_: ("compiled", "fp32"))
    fast = libradet.optimize(small_detector(), engine="compiled", cache_dir=tmp_path)
    assert fast.engine_report.difference.relative < 1e-5
    with pytest.raises(UserError, match="optimized"):
        libradet.optimize(fast, engine="compiled")
    with pytest.raises(UserError, match="optimized model cannot be saved"):
        save_model(fast, tmp_path / "x.safetensors")
    assert engines.optimize_predictor(fast) is fast


def test_compile_and_an_engine_exclude_each_other(monkeypatch):
    monkeypatch.setattr(engines, "choose_engine", lambda *_: ("compiled", "fp32"))
    with pytest.raises(UserError, match="compile is for the engine eager"):
        libradet.optimize(small_detector(), compile=True, engine="compiled")


def test_exported_files_run_in_no_engine():
    exported = ExportedModel(build_metadata(small_detector("retinanet")), list)
    with pytest.raises(UserError, match="this retinanet is an exported file: leave engine out"):
        engines.optimize_predictor(exported, engine="compiled")


@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="needs onnxscript")
def test_what_cannot_be_traced_is_an_error(cache_dir, monkeypatch):
    model = small_detector()
    monkeypatch.setattr(model.__class__, "compute_dense", lambda self, images: images[images > 3].tolist())
    with pytest.raises(UserError, match="cannot be converted to ONNX"):
        libradet.optimize(model, engine="onnxruntime", cache_dir=cache_dir / "none")


@pytest.mark.parametrize(("error", "difference"), [(0.5, ".*"), (float("nan"), "relative difference nan")])
def test_a_box_head_that_differs_is_refused(error, difference, monkeypatch):
    model = small_detector()
    original = BoxHead.pack

    def pack_wrongly(head):
        head.logits.bias.data += error
        original(head)

    monkeypatch.setattr(BoxHead, "pack", pack_wrongly)
    with (
        shape_checks_disabled(),
        pytest.raises(UserError, match=rf"does not compute what this .* does: {difference}.*use eager"),
    ):
        libradet.optimize(model, engine="packed")


@pytest.mark.parametrize(
    ("precision", "relative", "matched", "detections", "accepted"),
    [
        ("fp32", 1e-6, 9, 11, True),
        ("fp32", 1e-6, 7, 11, False),
        ("fp32", 1e-6, 98, 100, True),
        ("fp32", 1e-6, 96, 100, False),
        ("fp32", 2e-3, 100, 100, False),
        ("fp32", float("nan"), 100, 100, False),
        ("bf16", 1e-2, 1, 2, True),
        ("bf16", 1e-2, 0, 2, False),
    ],
)
def test_rounding_explains_few_other_detections(precision, relative, matched, detections, accepted):
    assert is_rounding(EngineDifference(relative, matched, detections), precision) == accepted
