"""Detectors are built from names, configurations and trained weights."""

from dataclasses import replace

import pytest
import torch

from libradet.errors import UserError
from libradet.models.build import create_model
from libradet.models.serialization import save_model
from tests.helpers.tiny_detectors import tiny_batch, tiny_config, tiny_detector


def test_class_names_decide_the_number_of_classes():
    model = create_model("faster_rcnn", backbone="test_resnet", class_names=["cat", "dog"], config=tiny_config())
    assert model.class_names == ["cat", "dog"]
    assert model.config.num_classes == 2
    assert model.roi.logits.out_features == 3
    assert create_model(config=replace(tiny_config(num_classes=2), class_names=())).class_names == [
        "class_0",
        "class_1",
    ]


def test_weights_of_other_classes_keep_all_but_the_last_layers(tmp_path):
    saved = tiny_detector(tiny_config(num_classes=3))
    save_model(saved, tmp_path / "three.safetensors")
    model = create_model(config=tiny_config(num_classes=5), weights=tmp_path / "three.safetensors")
    before, after = saved.state_dict(), model.state_dict()
    assert before.keys() == after.keys()
    last = ("roi.logits.", "roi.deltas.")
    for name, tensor in after.items():
        if name.startswith(last):
            assert tensor.shape != before[name].shape
        else:
            assert torch.equal(tensor, before[name]), name
    assert sum(model.train()(tiny_batch()).values()).isfinite()


def test_weights_of_the_same_classes_are_all_kept(tmp_path):
    saved = tiny_detector()
    save_model(saved, tmp_path / "model.safetensors")
    model = create_model(config=tiny_config(), weights=str(tmp_path / "model.safetensors"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, saved.state_dict()[name]), name


def test_weights_of_another_backbone_are_refused(tmp_path):
    save_model(tiny_detector(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="backbone test_resnet, the model resnet34"):
        create_model(config=tiny_config(backbone="resnet34"), weights=tmp_path / "model.safetensors")


def test_weights_that_are_not_there():
    with pytest.raises(UserError, match="no such file"):
        create_model("faster_rcnn", weights="imagenett")


def test_ids_stay_with_their_classes():
    config = tiny_config()
    config.category_ids = (4, 5, 9)
    assert create_model(config=config, class_names=list(config.class_names)).category_ids == [4, 5, 9]
    assert create_model(config=config, class_names=["cat", "dog"]).category_ids == [1, 2]
    assert create_model(config=config, class_names=["cat", "dog", "bird"]).category_ids == [1, 2, 3]
