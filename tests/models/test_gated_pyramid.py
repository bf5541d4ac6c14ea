"""A plain detector with a new gated pyramid is the same detector, also as an exported file."""

from dataclasses import replace

import pytest
import torch

import libradet
from libradet.errors import UserError
from libradet.interop.saving import to_foreign_state_dict
from libradet.models.config import BalancedPyramidConfig
from libradet.models.detector import Detector
from libradet.models.serialization import load_model, save_model
from libradet.training.config import TrainConfig
from libradet.training.optim import GATE_LR_FACTOR, PYRAMID_GATE, parameter_groups
from tests.helpers.tiny_detectors import take_all_samples, tiny_batch, tiny_config, tiny_detector


def with_gated_pyramid(plain):
    """Return the plain detector's weights with a gated pyramid on top."""
    pyramid = replace(plain.config.pyramid, balanced=BalancedPyramidConfig(gated=True))
    gated = Detector(replace(plain.config, pyramid=pyramid))
    missing, unexpected = gated.load_state_dict(plain.state_dict(), strict=False)
    assert PYRAMID_GATE in missing
    assert not unexpected
    return gated


def test_plain_detector_keeps_its_losses_and_detections():
    plain = tiny_detector(take_all_samples(tiny_config("faster_rcnn")))
    gated, batch = with_gated_pyramid(plain), tiny_batch()
    for model in (plain, gated):
        model.train().backbone.eval()
    torch.manual_seed(0)
    losses = gated(batch)
    torch.manual_seed(0)
    for name, loss in plain(batch).items():
        assert torch.equal(losses[name], loss), name
    with torch.no_grad():
        expected, detections = plain.eval()(batch), gated.eval()(batch)
    assert torch.equal(expected.boxes, detections.boxes)
    assert torch.equal(expected.scores, detections.scores)


def test_gates_are_saved(tmp_path):
    model = with_gated_pyramid(tiny_detector(tiny_config("faster_rcnn")))
    with torch.no_grad():
        model.balance.gate.copy_(torch.arange(5.0))
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config.pyramid.balanced.gated
    assert loaded.balance.gate.tolist() == [0, 1, 2, 3, 4]


def test_other_toolboxes_have_no_gates():
    model = with_gated_pyramid(tiny_detector(tiny_config("faster_rcnn", backbone="resnet50")))
    with pytest.raises(UserError, match=r"no layer for 'balance\.gate'"):
        to_foreign_state_dict(model, "mmdet")


@pytest.mark.parametrize("layer_decay", [None, 0.7])
def test_gates_have_a_higher_learning_rate_with_adamw_only(layer_decay):
    model = with_gated_pyramid(tiny_detector(tiny_config("faster_rcnn")))
    gate = model.balance.gate
    config = TrainConfig(data="", optimizer="adamw", lr=1e-3, layer_decay=layer_decay)
    *others, last = parameter_groups(model, config)
    assert last["params"] == [gate]
    assert last["lr"] == GATE_LR_FACTOR * 1e-3
    assert not any(p is gate for group in others for p in group["params"])
    sgd = parameter_groups(model, replace(config, optimizer="sgd"))
    assert sum(p is gate for group in sgd for p in group["params"]) == 1
    assert all(group.get("lr", 0) <= 1e-3 for group in sgd)


def test_a_plain_detector_becomes_a_balanced_one_without_losing_detections(tmp_path):
    plain = tiny_detector(tiny_config("faster_rcnn")).eval()
    save_model(plain, tmp_path / "plain.safetensors")
    config = tiny_config("faster_rcnn")
    config.pyramid.balanced = BalancedPyramidConfig(gated=True)
    model = libradet.create_model(config=config, weights=tmp_path / "plain.safetensors").eval()
    assert {name.partition(".")[0] for name in model.reinitialized_layers} == {"balance"}
    with torch.no_grad():
        for ours, theirs in zip(model(tiny_batch()), plain(tiny_batch()), strict=True):
            assert (ours is None and theirs is None) or torch.equal(ours, theirs)


def test_a_pyramid_without_gates_needs_allow_partial(tmp_path):
    save_model(tiny_detector(tiny_config("faster_rcnn")), tmp_path / "plain.safetensors")
    config = tiny_config("faster_rcnn")
    config.pyramid.balanced = BalancedPyramidConfig()
    with pytest.raises(UserError, match=r"balance\..*allow_partial"):
        libradet.create_model(config=config, weights=tmp_path / "plain.safetensors")
