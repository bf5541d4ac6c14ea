"""Optimized detectors return the detections of the original."""

import warnings

import pytest
import torch
from torch import nn

import libradet
from libradet.errors import UserError
from libradet.models.config import BackboneConfig
from libradet.models.detector import Detector
from libradet.models.optimize import choose_precision, optimize, optimize_predictor
from libradet.models.serialization import save_model
from libradet.models.zoo import MODELS
from tests.helpers.tiny_detectors import lively, tiny_batch, tiny_config, tiny_detector, tiny_zoo_config


def assert_same(a, b, boxes=1e-3, scores=1e-4):
    assert torch.equal(a.valid, b.valid)
    torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=scores)
    torch.testing.assert_close(a.boxes, b.boxes, rtol=0, atol=boxes)


@pytest.mark.parametrize("name", [name for name in MODELS if "fast_rcnn" not in name.replace("faster", "")])
def test_detections_match_the_original(name):
    model = lively(tiny_detector(tiny_zoo_config(name)))
    batch = tiny_batch()
    with torch.inference_mode():
        expected, found = model(batch), libradet.optimize(model)(batch)
    assert expected.valid.any()
    assert_same(found, expected)


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_small_050", "test_convnext"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_match_the_original(backbone, precision):
    config = tiny_config()
    config.backbone = BackboneConfig(backbone)
    model = lively(Detector(config))
    optimized = libradet.optimize(model, precision)
    with torch.inference_mode():
        for own, theirs in zip(
            optimized.extract_features(tiny_batch()), model.extract_features(tiny_batch()), strict=True
        ):
            difference = (own.float() - theirs).norm() / theirs.norm()
            assert difference < (1e-4 if precision == "fp32" else 0.05)


def test_all_fixed_batch_norms_are_fused():
    for backbone in ("resnet18", "tf_efficientnet_lite0"):
        config = tiny_config()
        config.backbone = BackboneConfig(backbone)
        optimized = libradet.optimize(Detector(config))
        assert not [m for m in optimized.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def test_the_original_is_not_modified():
    model = tiny_detector(tiny_config()).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    optimized = libradet.optimize(model, "bf16")
    assert model.training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in optimized.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_predictor_shares_what_it_need_not_convert(precision):
    model = lively(tiny_detector())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    predictor = optimize_predictor(model, precision)
    shares = {
        name
        for name, p in predictor.named_parameters()
        if name in before and p.data_ptr() == model.get_parameter(name).data_ptr()
    }
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert linear
    assert (linear <= shares) == (precision == "fp32")
    batch = tiny_batch()
    model.eval()
    with torch.no_grad():
        expected, actual = optimize(model, precision)(batch), predictor(batch)
    assert all(torch.equal(a, b) for a, b in zip(expected[:4], actual[:4], strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.rpn.parameters())


def test_optimized_models_are_not_saved(tmp_path):
    with pytest.raises(UserError, match="optimized model cannot be saved"):
        save_model(libradet.optimize(tiny_detector(tiny_config())), tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_in_place_the_detector_itself_is_optimized():
    model = lively(tiny_detector())
    expected = libradet.optimize(model)
    optimized = libradet.optimize(model, in_place=True)
    assert optimized is model
    assert optimized.is_optimized
    with torch.inference_mode():
        assert_same(optimized(tiny_batch()), expected(tiny_batch()), boxes=0, scores=0)


@pytest.mark.parametrize(
    ("requested", "instructions", "chosen", "reason"),
    [
        ("auto", True, "bf16", "the CPU supports it"),
        ("auto", False, "fp32", "this CPU would emulate bf16, which is slower"),
        ("bf16", True, "bf16", "as requested"),
        ("bf16", False, "bf16", "as requested, but this CPU emulates bf16, which is slower than fp32"),
        ("fp32", False, "fp32", "as requested"),
    ],
)
def test_emulated_bf16_is_used_only_on_request_and_named(requested, instructions, chosen, reason, monkeypatch):
    monkeypatch.setattr("libradet.models.optimize.has_bf16_instructions", lambda: instructions)
    assert choose_precision(requested, "cpu") == (chosen, reason)


@pytest.mark.parametrize(("precision", "count"), [("bf16", 1), ("auto", 0), ("fp32", 0)])
def test_emulated_bf16_is_a_warning(precision, count, monkeypatch):
    monkeypatch.setattr("libradet.models.optimize.has_bf16_instructions", lambda: False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimize(tiny_detector(), precision)
    assert [str(w.message) for w in caught if "emulates" in str(w.message)] == [
        "this CPU emulates bf16, which is slower than fp32: use precision fp32, or auto"
    ] * count
