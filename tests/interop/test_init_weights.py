"""New detectors that start from the weights of other toolboxes' detectors."""

from copy import deepcopy

import pytest
import torch
import torchvision

import libradet
from libradet.cli import main
from libradet.errors import UserError
from libradet.interop.loading import load_checkpoint
from libradet.models.serialization import save_model
from libradet.models.zoo import make_config
from libradet.training.options import parse_train
from tests.helpers.detectron2_state import detectron2_state

CAFFE_MEAN = (103.53, 116.28, 123.675)


def small_state():
    """detectron2's Faster R-CNN of three classes with narrow heads."""
    return detectron2_state(32, 64)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """detectron2's Faster R-CNN of three classes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("start") / "model_final.pth"
    torch.save({"model": small_state()}, path)
    return path


@pytest.fixture(scope="module")
def trained(file):
    return load_checkpoint(file).model


def same_except(model, trained, *reinitialized):
    own, theirs = model.state_dict(), trained.state_dict()
    kept = [n for n in own if not n.startswith(reinitialized)]
    return all(torch.equal(own[n], theirs[n]) for n in kept)


def test_other_classes(file, trained):
    model = libradet.create_model("faster_rcnn", class_names=["cat", "dog"], weights=file)
    assert model.reinitialized_layers == ["roi.logits", "roi.deltas"]
    assert same_except(model, trained, "roi.logits.", "roi.deltas.")
    config = model.config
    assert (config.image.mean, config.image.channels) == (CAFFE_MEAN, "bgr")
    assert config.backbone.stride_in_1x1
    assert (config.roi.align.sampling_ratio, config.class_names) == (0, ("cat", "dog"))
    # Training settings remain those of the zoo.
    assert config.roi.box_loss == make_config("faster_rcnn").roi.box_loss


def test_equally_many_classes_with_other_names(file, trained, tmp_path):
    model = libradet.create_model("faster_rcnn", class_names=["a", "b", "c"], weights=file)
    assert model.reinitialized_layers == [], "nothing is known about the names of the classes in the file"
    assert same_except(model, trained)
    save_model(model, tmp_path / "x.safetensors")
    model = libradet.create_model("faster_rcnn", class_names=["c", "b", "a"], weights=tmp_path / "x.safetensors")
    assert model.reinitialized_layers == ["roi.logits", "roi.deltas"]


def test_given_configuration_is_not_changed(file):
    config = make_config("faster_rcnn", 5)
    config.roi.align.sampling_ratio = 2
    config.pyramid.channels, config.roi.fc_dim = 32, 64
    before = deepcopy(config)
    model = libradet.create_model(config=config, class_names=["cat", "dog"], weights=file)
    assert config == before
    assert model.config.roi.align.sampling_ratio == 2
    assert (model.config.image.mean, model.config.image.channels) == (CAFFE_MEAN, "bgr")
    assert model.config.backbone.stride_in_1x1


def test_other_mismatches_need_allow_partial(file, trained):
    with pytest.raises(UserError, match=r"balance\..*allow_partial"):
        libradet.create_model("libra_faster_rcnn", num_classes=3, weights=file)
    model = libradet.create_model("libra_faster_rcnn", num_classes=3, weights=file, allow_partial=True)
    assert {name.split(".")[0] for name in model.reinitialized_layers} == {"balance"}
    assert torch.equal(model.roi.logits.weight, trained.roi.logits.weight)


def test_missing_tensors(tmp_path):
    state = small_state()
    del state["roi_heads.box_head.fc2.bias"]
    torch.save({"model": state}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth.*missing: roi\.fc2\.bias"):
        libradet.create_model("faster_rcnn", 3, weights=tmp_path / "x.pth")
    model = libradet.create_model("faster_rcnn", 3, weights=tmp_path / "x.pth", allow_partial=True)
    assert model.reinitialized_layers == ["roi.fc2.bias"]


def test_mask_rcnn_of_torchvision(tmp_path):
    there = torchvision.models.detection.maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=4)
    state = {n: t[:1].expand_as(t) if t.dim() > 1 else t for n, t in there.state_dict().items()}
    torch.save(state, tmp_path / "x.pth")
    model = libradet.create_model("mask_rcnn", 7, weights=tmp_path / "x.pth")
    assert model.reinitialized_layers == ["roi.logits", "roi.deltas", "mask.logits"]
    assert (model.config.pyramid.norm, model.config.roi.num_convs, model.config.rpn.num_convs) == ("batch", 4, 2)


def test_configuration_on_the_command_line(file):
    asked = parse_train(["--data", "x", "--model", "faster_rcnn", "--weights", str(file), "--allow_partial"])
    assert asked.config.allow_partial
    assert (asked.config.weights, asked.config.backbone) == (str(file), "resnet50")
    assert asked.detector.image.channels == "bgr"
    assert asked.detector.backbone.freeze_at == 2
    options = ["--detector.backbone.freeze_at", "0", "--detector.image.size", "[480,640]"]
    asked = parse_train(["--data", "x", "--model", "faster_rcnn", "--weights", str(file), *options])
    assert (asked.detector.backbone.freeze_at, asked.detector.image.size) == (0, (480, 640))
    assert not asked.config.allow_partial


@pytest.mark.parametrize("content", [None, b"", b"\x80\x02}q\x00.", b"PK\x03\x04cut"])
def test_damaged_files_are_refused_in_one_line(tmp_path, capsys, content):
    path = tmp_path / "x.pth"
    if content is not None:
        path.write_bytes(content)
    for argv in (
        ["train", "--data", str(tmp_path), "--weights", str(path), "--output_dir", str(tmp_path / "run")],
        ["convert", str(path), str(tmp_path / "out" / "y.safetensors")],
    ):
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert error.startswith("libradet: error: ")
        assert "x.pth" in error
        assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "out").exists()


def test_outputs_that_cannot_be_written(trained, file, tmp_path, capsys):
    save_model(trained, tmp_path / "new" / "folder" / "y.safetensors")
    (tmp_path / "taken").write_text("a file")
    for out in (tmp_path / "taken" / "y.safetensors", tmp_path / "new" / "folder"):
        assert main(["convert", str(file), str(out)]) == 2
        assert "cannot be written" in capsys.readouterr().err
    assert {p.name for p in tmp_path.rglob("*")} == {"new", "folder", "y.safetensors", "taken"}
