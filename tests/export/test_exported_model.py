"""Exported detectors are used like any other model."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import libradet
from libradet.cli import main
from libradet.data.synthesis.synthetic import synthesize
from tests.helpers.exported_detectors import scene, shape_checks_disabled, small_detector

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_predict.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    synthesize(folder, train=1, val=4, size=(140, 100), classes=3)
    records = json.loads((folder / "val.json").read_text())
    for number, category in enumerate(records["categories"]):
        category["name"] = f"class_{number}"
    (folder / "val.json").write_text(json.dumps(records))
    return folder


def test_images_of_several_sizes_in_one_call(mask_rcnn_onnx):
    exported = libradet.load_model(mask_rcnn_onnx.exported)
    images = [scene(*size) for size in ((120, 90), (90, 120), (200, 160), (120, 90))]
    ours = mask_rcnn_onnx.model.predict(images, score_thresh=0.1, batch_size=4)
    for one, other in zip(ours, exported.predict(images, score_thresh=0.1, batch_size=4), strict=True):
        np.testing.assert_allclose(other.xyxy, one.xyxy, atol=1e-2)
        np.testing.assert_allclose(other.confidence, one.confidence, atol=1e-3)
        assert other["class_name"].tolist() == one["class_name"].tolist()
        assert (other.mask == one.mask).mean() > 0.999
        assert other.mask.shape == one.mask.shape


@pytest.mark.parametrize("suffix", ["onnx", pytest.param("pt2", marks=pytest.mark.slow)])
def test_tiles(mask_rcnn_onnx, tmp_path, suffix):
    model, path, image = mask_rcnn_onnx.model, mask_rcnn_onnx.exported, scene(170, 210)
    if suffix == "pt2":
        model, path = small_detector("faster_rcnn"), tmp_path / "model.pt2"
        with shape_checks_disabled():
            libradet.export_model(model, path)
    exported = libradet.load_model(path)
    settings = {"score_thresh": 0.1, "tiles": (80, 0.25), "batch_size": 4}
    ours, theirs = (one.predict(image, **settings) for one in (model, exported))
    assert len(ours) > 3
    np.testing.assert_allclose(theirs.xyxy, ours.xyxy, atol=1e-2)
    np.testing.assert_allclose(theirs.confidence, ours.confidence, atol=1e-3)
    assert theirs["class_name"].tolist() == ours["class_name"].tolist()
    assert (theirs.mask is None) == (ours.mask is None) == (suffix == "pt2")
    if ours.mask is not None:
        assert (np.asarray(theirs.mask) == np.asarray(ours.mask)).mean() > 0.999


def test_example_needs_only_the_file(mask_rcnn_onnx, tmp_path, monkeypatch, capsys):
    Image.fromarray(scene(200, 160)).save(tmp_path / "a.png")
    monkeypatch.setattr(sys, "argv", ["onnx_predict.py", str(mask_rcnn_onnx.exported), str(tmp_path / "a.png")])
    runpy.run_path(str(EXAMPLE))
    expected = mask_rcnn_onnx.model.predict(tmp_path / "a.png", score_thresh=0.5)
    lines = capsys.readouterr().out.splitlines()
    assert len(expected), "without detections the test would be meaningless"
    assert [line.split(": ")[1].split(" ")[0] for line in lines] == expected["class_name"].tolist()
    corners = [[float(x) for x in line.split(" at ")[1].split(", ")] for line in lines]
    np.testing.assert_allclose(corners, expected.xyxy, atol=0.06)


def test_commands_accept_exported_files(mask_rcnn_onnx, data, tmp_path, capsys):
    metrics, results = {}, {}
    for name, file in (("ours", mask_rcnn_onnx.weights), ("theirs", mask_rcnn_onnx.exported)):
        out = tmp_path / name
        images, options = str(data / "images" / "val_*"), ["--output_dir", str(out), "--score_thresh", "0.2"]
        assert main(["predict", str(file), images, *options]) == 0
        assert main(["evaluate", str(file), "--data", str(data), "--json", str(out / "n.json")]) == 0
        results[name] = json.loads((out / "predictions.json").read_text())
        metrics[name] = json.loads((out / "n.json").read_text())
    assert len(results["ours"]) == len(results["theirs"]) > 0
    for ours, theirs in zip(results["ours"], results["theirs"], strict=True):
        assert (ours["image_id"], ours["category_id"]) == (theirs["image_id"], theirs["category_id"])
        np.testing.assert_allclose(theirs["bbox"], ours["bbox"], atol=2e-2)
    for name in ("AP", "AP50", "mask_AP"):
        assert metrics["theirs"][name] == pytest.approx(metrics["ours"][name], abs=1e-3)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["predict", "--size", "64", "96"], "resizes images itself"),
        (["predict", "--compile"], "precision of this exported"),
        (["predict", "--precision", "bf16"], "precision of this exported"),
        (["analyze"], "not a "),
    ],
)
def test_unsupported_options_are_refused(mask_rcnn_onnx, data, tmp_path, capfd, argv, message):
    source = ["--data", str(data)] if argv[0] == "analyze" else [str(data / "images")]
    assert main([argv[0], str(mask_rcnn_onnx.exported), *source, "--output_dir", str(tmp_path / "o"), *argv[1:]]) == 2
    error = capfd.readouterr().err
    assert message in error
    assert "Traceback" not in error
