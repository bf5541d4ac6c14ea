"""Exported files give the detections of their detector."""

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment

import libradet
from libradet.cli import main
from libradet.data.collate import prepare_batch
from libradet.errors import UserError
from libradet.export import exporter
from libradet.export.formats import FORMATS
from libradet.inference.predict import predict_batch
from libradet.models.config import ClassBalanceConfig
from libradet.models.serialization import save_model
from libradet.models.zoo import MODELS
from tests.helpers.exported_detectors import random_proposals, scene, shape_checks_disabled, small_detector


def assert_same(model, exported, images):
    """Compare detection by detection, in pixels of the images."""
    proposals = [random_proposals(image) for image in images] if model.num_proposals else None
    batch = prepare_batch(images, model.image_size, model.size_divisible, proposals)
    ours = predict_batch(model, batch)
    theirs = predict_batch(exported, prepare_batch(images, "original", 1, proposals))
    assert ours.valid.any(1).all(), "without detections the test would be meaningless"
    expected = ours.boxes / batch.scales.repeat(1, 2)[:, None]
    pairs = zip(expected, ours.labels, theirs.boxes, theirs.labels, strict=True)
    order = torch.stack([counterparts(*pair) for pair in pairs])
    valid, labels, scores = (t.gather(1, order) for t in (theirs.valid, theirs.labels, theirs.scores))
    assert torch.equal(valid, ours.valid)
    assert torch.equal(labels, ours.labels)
    torch.testing.assert_close(scores, ours.scores, rtol=0, atol=1e-3)
    torch.testing.assert_close(theirs.scores, ours.scores, rtol=0, atol=1e-3)
    corners = order[..., None].expand_as(expected)
    torch.testing.assert_close(theirs.boxes.gather(1, corners), expected, rtol=0, atol=1e-2)
    assert (theirs.masks is None) == (ours.masks is None)
    if ours.masks is not None:
        cells = order[..., None, None].expand_as(ours.masks)
        torch.testing.assert_close(theirs.masks.gather(1, cells), ours.masks, rtol=0, atol=1e-3)


def counterparts(boxes, labels, their_boxes, their_labels):
    """Return the nearest rows of theirs, each used once: scores that differ only by rounding have no fixed order."""
    other = labels[:, None] != their_labels
    cost = torch.cdist(boxes, their_boxes, p=torch.inf).clamp(max=1e3) + 1e6 * other
    return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])


@pytest.mark.parametrize(("height", "width"), [(96, 128), (150, 101), (333, 500)])
@pytest.mark.parametrize("count", [1, 3])
def test_same_detections_for_any_size_and_number_of_images(mask_rcnn_onnx, height, width, count):
    exported = libradet.load_model(mask_rcnn_onnx.exported)
    assert_same(mask_rcnn_onnx.model, exported, [scene(height, width, seed) for seed in range(count)])


def test_proposals_are_an_input(tmp_path):
    model = small_detector("fast_rcnn")
    with shape_checks_disabled():
        libradet.export_model(model, tmp_path / "model.pt2", embed_preprocess=True)
    exported = libradet.load_model(tmp_path / "model.pt2")
    assert exported.num_proposals == model.num_proposals
    for height, width, count in ((90, 120, 1), (120, 90, 3)):
        assert_same(model, exported, [scene(height, width, seed) for seed in range(count)])


def test_files_with_other_detections_are_not_written(mask_rcnn_onnx, tmp_path, monkeypatch):
    def write(program, metadata, path):
        path.write_bytes(mask_rcnn_onnx.exported.read_bytes())

    other = small_detector("libra_mask_rcnn")
    other.roi.deltas.weight.data *= 1.05
    monkeypatch.setattr(exporter, "trace_detector", lambda *a: None)
    monkeypatch.setitem(FORMATS, ".onnx", FORMATS[".onnx"]._replace(write=write))
    with pytest.raises(UserError, match=r"new.onnx: not written because its outputs differ"):
        exporter.export(other, tmp_path / "new.onnx")
    assert not list(tmp_path.iterdir())
    # The detector from which the file was exported has the same detections.
    assert exporter.export(mask_rcnn_onnx.model, tmp_path / "new.onnx").difference.is_small


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_before_tracing(value, tmp_path, monkeypatch):
    model = small_detector("rpn")
    model.rpn.logits.bias.data[0] = value
    monkeypatch.setattr(exporter, "trace_detector", lambda *a: pytest.fail("traced"))
    message = r"new.onnx: not written because 1 of .* contain NaN or infinity, the first is rpn.logits.bias; "
    with pytest.raises(UserError, match=message):
        exporter.export(model, tmp_path / "new.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--output", "model.bin"], "ends in .onnx"),
        (["--output", "model.onnx", "--format", "torch"], "end in .pt2"),
        (["--output", "model.pt2", "--format", "onnx"], "end in .onnx"),
        (["--output", "model.onnx", "--verify_images", "absent.jpg"], "absent.jpg"),
        (["--output", "model.onnx", "--size", "0", "5"], "size"),
        (["--output", "model.onnx", "--size", "900", "800"], "size"),
    ],
)
def test_invalid_options_are_refused_before_tracing(argv, message, tmp_path, monkeypatch, capfd):
    save_model(small_detector("rpn"), tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exporter, "trace_detector", lambda *a: pytest.fail("traced"))
    assert main(["export", "model.safetensors", *argv]) == 2
    assert message in capfd.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
@pytest.mark.parametrize("name", MODELS)
def test_every_entry_of_the_zoo(name, suffix, tmp_path):
    model = small_detector(name)
    with shape_checks_disabled():
        result = libradet.export_model(model, tmp_path / f"model.{suffix}")
    assert result.difference.detections
    exported = libradet.load_model(result.path)
    for height, width in ((96, 128), (150, 101), (333, 500)):
        for count in (1, 3):
            assert_same(model, exported, [scene(height, width, seed) for seed in range(count)])


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "static"), [("onnx", None), ("onnx", (2, 101, 150)), ("pt2", None)])
@pytest.mark.parametrize(
    ("name", "kind"), [("mask_rcnn", "seesaw"), ("mask_rcnn", "eql_v2"), ("cascade_rcnn", "eql_v2")]
)
def test_scores_of_balanced_classes(name, kind, suffix, static, tmp_path):
    """Those of equalization loss v2 are sigmoids."""
    model = small_detector(name, ClassBalanceConfig(kind))
    with shape_checks_disabled():
        libradet.export_model(model, tmp_path / f"model.{suffix}", static=static)
    exported = libradet.load_model(tmp_path / f"model.{suffix}")
    images = [scene(101, 150, seed) for seed in range(2)]
    assert_same(model, exported, images)
    model.roi.box_heads[-1].config.class_balance = None
    if kind == "eql_v2":
        with pytest.raises(AssertionError):
            assert_same(model, exported, images)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_without_embedded_preprocessing(suffix, tmp_path):
    model = small_detector("libra_retinanet")
    with shape_checks_disabled():
        libradet.export_model(model, tmp_path / f"model.{suffix}", embed_preprocess=False)
    exported = libradet.load_model(tmp_path / f"model.{suffix}")
    for size in (None, (64, 80)):
        ours, theirs = (m.predict(scene(150, 101), score_thresh=0.1, size=size) for m in (model, exported))
        np.testing.assert_allclose(theirs.xyxy, ours.xyxy, atol=1e-2)
        np.testing.assert_allclose(theirs.confidence, ours.confidence, atol=1e-3)


@pytest.mark.slow
def test_int8_files_are_smaller_and_reproduce_most_detections(mask_rcnn_onnx, tmp_path, capsys):
    images, path = tmp_path / "images", tmp_path / "model.onnx"
    images.mkdir()
    for seed in range(4):
        Image.fromarray(scene(200, 160, seed)).save(images / f"{seed}.png")
    options = ["--int8", "--calibration_images", str(images)]
    with shape_checks_disabled():
        assert main(["export", str(mask_rcnn_onnx.weights), "--output", str(path), *options]) == 0
    assert "are reproduced; measure the change in AP" in capsys.readouterr().out
    assert path.stat().st_size < 0.6 * mask_rcnn_onnx.exported.stat().st_size
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    assert nodes.count("QuantizeLinear") > 10
    exported = libradet.load_model(path)
    assert list(exported.class_names) == list(mask_rcnn_onnx.model.class_names)
    assert len(exported.predict(scene(150, 101), score_thresh=0.1))
