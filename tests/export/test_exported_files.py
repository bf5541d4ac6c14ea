"""An exported file finds what its detector finds, wherever a detector can stand."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported_detectors import small_detector, unchecked
from PIL import Image
from scipy.optimize import linear_sum_assignment

import libradet
from libradet.cli import main
from libradet.data.loading.transforms import prepare
from libradet.data.synthesis.synthetic import draw_scene, synthesize
from libradet.errors import UserError
from libradet.export import exporting
from libradet.export.formats import FORMATS
from libradet.inference.predictor import find
from libradet.models.zoo import MODELS

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_predict.py"


def scene(height, width, seed=0):
    return draw_scene(np.random.default_rng(seed), (width, height), 3)[0]


def boxes_in(image, count=30):
    corners = np.sort(np.random.default_rng(1).uniform(0, 1, (count, 2, 2)), axis=1).reshape(-1, 4)
    return torch.from_numpy(corners * np.tile(image.shape[1::-1], 2)).float()


def assert_same(model, exported, images):
    """Detection by detection, in pixels of the images."""
    given = [boxes_in(image) for image in images] if model.proposals_wanted else None
    batch = prepare(images, model.image_size, model.divisor, given)
    ours, theirs = find(model, batch), find(exported, prepare(images, "original", 1, given))
    assert ours.valid.any(1).all(), "or this test sees nothing"
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
    """Rows of theirs, each taken once, that lie nearest: where scores are equal but for rounding, order is open."""
    other = labels[:, None] != their_labels
    cost = torch.cdist(boxes, their_boxes, p=torch.inf).clamp(max=1e3) + 1e6 * other
    return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])


@pytest.mark.parametrize(("height", "width"), [(96, 128), (150, 101), (333, 500)])
@pytest.mark.parametrize("count", [1, 3])
def test_the_same_is_found_at_any_size_and_in_any_number(masks, height, width, count):
    exported = libradet.load_model(masks.exported)
    assert_same(masks.model, exported, [scene(height, width, seed) for seed in range(count)])


def test_proposals_are_an_input(tmp_path):
    model = small_detector("fast_rcnn")
    with unchecked():
        libradet.export_model(model, tmp_path / "model.pt2", resize="inside")
    exported = libradet.load_model(tmp_path / "model.pt2")
    assert exported.proposals_wanted == model.proposals_wanted
    for height, width, count in ((90, 120, 1), (120, 90, 3)):
        assert_same(model, exported, [scene(height, width, seed) for seed in range(count)])


def test_images_of_many_sizes_become_the_same_detections(masks):
    exported = libradet.load_model(masks.exported)
    images = [scene(*size) for size in ((120, 90), (90, 120), (200, 160), (120, 90))]
    ours = masks.model.predict(images, threshold=0.1, batch_size=4)
    for one, other in zip(ours, exported.predict(images, threshold=0.1, batch_size=4), strict=True):
        np.testing.assert_allclose(other.xyxy, one.xyxy, atol=1e-2)
        np.testing.assert_allclose(other.confidence, one.confidence, atol=1e-3)
        assert other["class_name"].tolist() == one["class_name"].tolist()
        assert (other.mask == one.mask).mean() > 0.999
        assert other.mask.shape == one.mask.shape


def test_a_file_says_what_it_is(masks):
    import onnxruntime

    session = onnxruntime.InferenceSession(masks.exported, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert about["model"] == "libra_mask_rcnn"
    assert about["libradet"] == libradet.__version__
    expected = {"class_names": masks.model.class_names, "category_ids": [7, 3, 5], "size": [96, 128]}
    assert {name: json.loads(about[name]) for name in expected} == expected
    assert json.loads(about["threshold"]) == masks.model.config.detections.score
    assert [i.name for i in session.get_inputs()] == ["images"]
    assert [o.name for o in session.get_outputs()] == ["boxes", "scores", "labels", "valid", "masks"]
    assert str(Path.cwd()).encode() not in masks.exported.read_bytes(), "nothing of this machine is in it"


def test_the_example_needs_the_file_alone(masks, tmp_path, monkeypatch, capsys):
    Image.fromarray(scene(200, 160)).save(tmp_path / "a.png")
    monkeypatch.setattr(sys, "argv", ["onnx_predict.py", str(masks.exported), str(tmp_path / "a.png")])
    runpy.run_path(str(EXAMPLE))
    expected = masks.model.predict(tmp_path / "a.png", threshold=0.5)
    lines = capsys.readouterr().out.splitlines()
    assert len(expected), "or this test sees nothing"
    assert [line.split(": ")[1].split(" ")[0] for line in lines] == expected["class_name"].tolist()
    corners = [[float(x) for x in line.split(" at ")[1].split(", ")] for line in lines]
    np.testing.assert_allclose(corners, expected.xyxy, atol=0.06)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    synthesize(folder, train=1, val=4, size=(140, 100), classes=3)
    records = json.loads((folder / "val.json").read_text())
    for number, category in enumerate(records["categories"]):
        category["name"] = f"class_{number}"
    (folder / "val.json").write_text(json.dumps(records))
    return folder


def test_commands_take_it_as_any_model(masks, data, tmp_path, capsys):
    numbers, results = {}, {}
    for name, file in (("ours", masks.weights), ("theirs", masks.exported)):
        out = tmp_path / name
        found = ["predict", str(file), str(data / "images" / "val_*"), "--out", str(out), "--threshold", "0.2"]
        assert main(found) == 0
        assert main(["evaluate", str(file), "--data", str(data), "--json", str(out / "n.json")]) == 0
        results[name] = json.loads((out / "predictions.json").read_text())
        numbers[name] = json.loads((out / "n.json").read_text())
    assert len(results["ours"]) == len(results["theirs"]) > 0
    for ours, theirs in zip(results["ours"], results["theirs"], strict=True):
        assert (ours["image_id"], ours["category_id"]) == (theirs["image_id"], theirs["category_id"])
        np.testing.assert_allclose(theirs["bbox"], ours["bbox"], atol=2e-2)
    for name in ("AP", "AP50", "mask_AP"):
        assert numbers["theirs"][name] == pytest.approx(numbers["ours"][name], abs=1e-3)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["predict", "--size", "64", "96"], "resizes images itself"),
        (["predict", "--compile"], "computes as it was exported"),
        (["predict", "--precision", "bf16"], "computes as it was exported"),
        (["analyze"], "not a checkpoint"),
    ],
)
def test_what_a_file_cannot_do_is_refused(masks, data, tmp_path, capfd, argv, said):
    source = ["--data", str(data)] if argv[0] == "analyze" else [str(data / "images")]
    assert main([argv[0], str(masks.exported), *source, "--out", str(tmp_path / "o"), *argv[1:]]) == 2
    error = capfd.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_file_that_finds_something_else_is_not_left(masks, tmp_path, monkeypatch):
    def write(program, description, path):
        path.write_bytes(masks.exported.read_bytes())

    other = small_detector("libra_mask_rcnn")
    other.roi.deltas.weight.data *= 1.05
    monkeypatch.setattr(exporting, "trace", lambda *a: None)
    monkeypatch.setitem(FORMATS, ".onnx", FORMATS[".onnx"]._replace(write=write))
    with pytest.raises(UserError, match=r"new.onnx: not written, for it finds something else"):
        exporting.export(other, tmp_path / "new.onnx")
    assert not list(tmp_path.iterdir())
    # The other way about: what it was made of finds the same.
    assert exporting.export(masks.model, tmp_path / "new.onnx").difference.small


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for seed in range(4):
        Image.fromarray(scene(200, 160, seed)).save(folder / f"{seed}.png")
    return folder


@pytest.mark.slow
def test_eight_bits_are_smaller_and_find_most_of_it_again(masks, images, tmp_path, capsys):
    path = tmp_path / "model.onnx"
    with unchecked():
        assert main(["export", str(masks.weights), "--out", str(path), "--int8", str(images)]) == 0
    assert "found again; libradet evaluate says" in capsys.readouterr().out
    assert path.stat().st_size < 0.6 * masks.exported.stat().st_size
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    assert nodes.count("QuantizeLinear") > 10
    exported = libradet.load_model(path)
    assert list(exported.class_names) == list(masks.model.class_names)
    assert len(exported.predict(scene(150, 101), threshold=0.1))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
@pytest.mark.parametrize("name", MODELS)
def test_every_entry_of_the_zoo(name, suffix, tmp_path):
    model = small_detector(name)
    with unchecked():
        written = libradet.export_model(model, tmp_path / f"model.{suffix}")
    assert written.difference.detections
    exported = libradet.load_model(written.path)
    for height, width in ((96, 128), (150, 101), (333, 500)):
        for count in (1, 3):
            assert_same(model, exported, [scene(height, width, seed) for seed in range(count)])


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_images_that_come_resized(suffix, tmp_path):
    model = small_detector("libra_retinanet")
    with unchecked():
        libradet.export_model(model, tmp_path / f"model.{suffix}", resize="outside")
    exported = libradet.load_model(tmp_path / f"model.{suffix}")
    for size in (None, (64, 80)):
        ours, theirs = (m.predict(scene(150, 101), threshold=0.1, size=size) for m in (model, exported))
        np.testing.assert_allclose(theirs.xyxy, ours.xyxy, atol=1e-2)
        np.testing.assert_allclose(theirs.confidence, ours.confidence, atol=1e-3)
