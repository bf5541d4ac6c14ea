"""LoRA: adapters of attention layers start as the backbone, are trained alone, saved exactly and merged."""

import sys
from copy import deepcopy

import pytest
import torch

from libradet.errors import UserError
from libradet.models.backbone import Backbone, layer_depths
from libradet.models.build import create_model
from libradet.models.config import BackboneConfig, LoraConfig
from libradet.models.detector import Detector
from libradet.models.lora import merge_lora
from libradet.models.optimize import optimize
from libradet.models.serialization import load_model, save_model
from tests.helpers.small_backbones import SMALL, make_small
from tests.helpers.tiny_detectors import tiny_batch, tiny_detector, tiny_zoo_config

pytest.importorskip("peft")

BACKBONES = [name for name in SMALL if not name.startswith("convnext")]


@pytest.fixture(params=BACKBONES)
def name(request, monkeypatch):
    make_small(monkeypatch, request.param)
    return request.param


def build(name, **lora):
    """A backbone whose blocks count: scales of residuals, close to 0 in new ones, are 1."""
    torch.manual_seed(0)
    backbone = Backbone(BackboneConfig(name, lora=LoraConfig(**lora) if lora else None)).eval()
    for parameter_name, parameter in backbone.named_parameters():
        if "gamma" in parameter_name or "norm" in parameter_name:
            parameter.data.fill_(1)
    return backbone


def adapters(module):
    return {n: p for n, p in module.named_parameters() if ".lora_" in n}


def randomize(module):
    for parameter in adapters(module).values():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def adapted_detector(**lora):
    config = tiny_zoo_config("faster_rcnn", backbone="test_vit")
    config.backbone.lora = LoraConfig(**lora)
    return randomize(tiny_detector(config)).eval()


def test_adapters_start_at_zero_and_are_trained_alone(name):
    plain, backbone = build(name), build(name, rank=2, alpha=3)
    images = torch.randn(1, 3, 64, 96)
    for features, adapted in zip(plain(images), backbone(images), strict=True):
        torch.testing.assert_close(adapted, features, rtol=0, atol=0)
    weights = randomize(backbone).state_dict()
    sum(features.square().sum() for features in backbone(images)).backward()
    gradients = {n for n, p in backbone.named_parameters() if p.grad is not None and p.grad.any()}
    assert gradients == {n for n, p in backbone.named_parameters() if p.requires_grad} == set(adapters(backbone))
    attention = [n for n in plain.state_dict() if ".attn." in n and n.endswith(("qkv.weight", "proj.weight"))]
    assert len(gradients) == 2 * len(attention) > 0
    assert set(gradients) <= set(layer_depths(backbone))
    assert weights.keys() > gradients


def test_merged_features_are_the_same(name):
    backbone = randomize(build(name, rank=2, alpha=3))
    merged, images = deepcopy(backbone), torch.randn(1, 3, 64, 96)
    merge_lora(merged)
    assert merged.state_dict().keys() == build(name).state_dict().keys()
    with torch.no_grad():
        for features, expected in zip(merged(images), backbone(images), strict=True):
            torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(backbone(images)[0], build(name)(images)[0], atol=1e-2)


def test_a_saved_detector_is_loaded_exactly_and_optimized_without_adapters(tmp_path):
    model, batch = adapted_detector(rank=2, dropout=0.5), tiny_batch()
    save_model(model, tmp_path / "a.safetensors")
    loaded = load_model(tmp_path / "a.safetensors")
    assert loaded.config == model.config
    optimized = optimize(loaded)
    assert not adapters(optimized)
    with torch.no_grad():
        for ours, theirs in zip(loaded(batch), model(batch), strict=True):
            assert ours is theirs is None or torch.equal(ours, theirs)
        torch.testing.assert_close(optimized(batch).scores, model(batch).scores, rtol=1e-3, atol=1e-4)


def test_detectors_start_from_others_with_and_without_adapters():
    model, batch = adapted_detector(rank=2), tiny_batch()
    config = deepcopy(model.config)
    same = create_model(config=config, weights=model)
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in same.state_dict().items())
    for lora in (None, LoraConfig(rank=3)):
        config.backbone.lora = lora
        other = create_model(config=config, weights=model).eval()
        assert other.reinitialized_layers == []
        with torch.no_grad():
            torch.testing.assert_close(other(batch).scores, model(batch).scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BackboneConfig("test_resnet", lora=LoraConfig()), "test_resnet has no attention layers of a ViT or Swin"),
        (BackboneConfig("swinv2_tiny_window8_256", lora=LoraConfig(dropout=0.1)), "dropout is 0.1: it must be 0 for"),
    ],
)
def test_backbones_without_adapters_are_refused(config, message, monkeypatch):
    if config.name.startswith("swin"):
        make_small(monkeypatch, config.name)
    with pytest.raises(UserError, match=message):
        Backbone(config)


def test_other_refusals_name_the_fix(monkeypatch):
    config = tiny_zoo_config("retinanet", backbone="test_vit")
    config.backbone.lora = LoraConfig(rank=0)
    with pytest.raises(UserError, match=r"backbone\.lora\.rank is 0"):
        Detector(config)
    config.backbone.lora, config.backbone.frozen = LoraConfig(), True
    with pytest.raises(UserError, match=r"backbone\.frozen and backbone\.lora exclude each other"):
        Detector(config)
    config.backbone.frozen = False
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"backbone\.lora needs peft: pip install '\.\[lora\]'"):
        Detector(config)
