"""What is no exported detector, and what cannot become one, is refused in one line; nothing is left behind."""

import sys

import numpy as np
import onnx
import pytest
from exported_detectors import small_detector
from onnx import TensorProto, helper

import libradet
from libradet.cli import main
from libradet.errors import UserError
from libradet.export import exporting
from libradet.export.description import describe, from_text, to_text
from libradet.models.model_file import save_model


@pytest.fixture
def weights(tmp_path):
    save_model(small_detector("rpn"), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def plain_onnx(path):
    """A file that runs, but is no detector."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "plain", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_files_that_are_none(name, tmp_path):
    path = tmp_path / name
    with pytest.raises(UserError, match=f"{name}: no such file"):
        libradet.load_model(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=f"{name}: not a "):
        libradet.load_model(path)


def test_other_peoples_files(tmp_path):
    plain_onnx(tmp_path / "plain.onnx")
    with pytest.raises(UserError, match=r"plain.onnx: not a detector that libradet export wrote"):
        libradet.load_model(tmp_path / "plain.onnx")


def test_commands_say_it_in_one_line(tmp_path, capfd):
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    assert main(["predict", str(tmp_path / "model.onnx"), "x.jpg", "--out", str(tmp_path / "o")]) == 2
    assert len(capfd.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_what_is_not_installed_is_named(tmp_path, monkeypatch, weights, capfd):
    plain_onnx(tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"onnxruntime: pip install 'libradet\[export\]'"):
        libradet.load_model(tmp_path / "model.onnx")
    assert main(["export", str(weights), "--out", str(tmp_path / "new.onnx")]) == 2
    assert "pip install 'libradet[export]'" in capfd.readouterr().err
    assert not (tmp_path / "new.onnx").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--out", "model.bin"], "ends in .onnx"),
        (["--out", "model.onnx", "--format", "torch"], "ends in .pt2"),
        (["--out", "model.pt2", "--format", "onnx"], "ends in .onnx"),
        (["--out", "model.onnx", "--images", "absent.jpg"], "absent.jpg"),
        (["--out", "model.onnx", "--size", "0", "5"], "size"),
        (["--out", "model.onnx", "--size", "900", "800"], "size"),
    ],
)
def test_mistakes_end_before_anything_is_traced(argv, said, weights, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exporting, "trace", lambda *a: pytest.fail("traced"))
    assert main(["export", str(weights), *argv]) == 2
    assert said in capfd.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_what_cannot_be_followed_is_named(tmp_path, monkeypatch):
    model = small_detector("rpn")
    monkeypatch.setattr(
        model.__class__, "extract_features", lambda self, batch: batch.images[batch.images > 3].tolist()
    )
    with pytest.raises(UserError, match="rpn on test_resnet cannot be exported with open sizes"):
        exporting.export(model, tmp_path / "new.onnx")
    assert not list(tmp_path.iterdir())


def test_descriptions_survive_as_text():
    about = describe(small_detector("mask_rcnn"), (64, 80))
    assert from_text(to_text(about), "x") == about
    for damage in ({"size": "[1,"}, {"format": "other"}):
        with pytest.raises(UserError, match="x: "):
            from_text(to_text(about) | damage, "x")
    incomplete = to_text(about)
    del incomplete["category_ids"]
    with pytest.raises(UserError, match="category_ids"):
        from_text(incomplete, "x")


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [("rpn", "model.pt2", "--int8 is for .onnx files"), ("fast_rcnn", "model.onnx", "wants proposals")],
)
def test_what_has_no_eight_bits(name, file, said, tmp_path):
    with pytest.raises(UserError, match=said):
        libradet.export_model(small_detector(name), tmp_path / file, int8=[np.zeros((8, 8, 3), np.uint8)])
    assert not list(tmp_path.iterdir())
