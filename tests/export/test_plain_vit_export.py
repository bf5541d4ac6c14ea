"""Exported detectors on plain ViTs have the detections of their detector, at any size."""

from functools import partial

import pytest
import timm
import torch

import libradet
from libradet.errors import UserError
from libradet.models.config import BackboneConfig, LoraConfig
from tests.export.test_exporter import assert_same
from tests.helpers.exported_detectors import scene, shape_checks_disabled
from tests.helpers.tiny_detectors import lively, tiny_detector, tiny_zoo_config

create_model = timm.create_model


def vit_detector(name, backbone, lora=None):
    config = tiny_zoo_config(name)
    config.backbone, config.image.size = BackboneConfig(backbone, lora=lora), (96, 128)
    config.pyramid.type, config.pyramid.norm, config.pyramid.extra_levels = "simple", "layer", "max_pool"
    config.pyramid.num_levels = 4
    if config.retinanet is not None:
        config.retinanet.num_convs, config.retinanet.topk_candidates = 1, 200
    if config.rpn is not None:
        config.rpn.test_proposals.pre_nms_top_n = 200
    model = tiny_detector(config)
    for part, weights in model.named_parameters():
        if ".lora_" in part:
            torch.nn.init.normal_(weights, std=0.3)
    return lively(model)


@pytest.mark.slow
@pytest.mark.parametrize("static", [None, (2, 101, 150)])
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("retinanet", "test_vit"),
        ("faster_rcnn", "test_vit"),
        ("retinanet", "vit_small_patch16_dinov3"),
        ("retinanet", "vit_small_patch14_dinov2"),
    ],
)
def test_same_detections(name, backbone, suffix, static, tmp_path, monkeypatch):
    monkeypatch.setattr(timm, "create_model", partial(create_model, depth=2))
    model = vit_detector(name, backbone)
    if static is None and "dinov3" in backbone:
        # Rotary position embeddings of timm need whole numbers of cells.
        with shape_checks_disabled(), pytest.raises(UserError, match=r"cannot be exported with dynamic.*\n.*--static"):
            libradet.export_model(model, tmp_path / f"model.{suffix}")
        return
    with shape_checks_disabled():
        libradet.export_model(model, tmp_path / f"model.{suffix}", static=static)
    exported = libradet.load_model(tmp_path / f"model.{suffix}")
    sizes = [(96, 128), (150, 101), (333, 500)] if static is None else [static[1:]]
    for height, width in sizes:
        for count in (1, 3):
            assert_same(model, exported, [scene(height, width, seed) for seed in range(count)])


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_adapters_are_merged(suffix, tmp_path):
    model = vit_detector("retinanet", "test_vit", LoraConfig(2))
    plain = vit_detector("retinanet", "test_vit")
    with shape_checks_disabled():
        libradet.export_model(model, tmp_path / f"model.{suffix}")
        libradet.export_model(plain, tmp_path / f"plain.{suffix}")
    exported = libradet.load_model(tmp_path / f"model.{suffix}")
    images = [scene(150, 101, seed) for seed in range(2)]
    assert_same(model, exported, images)
    with pytest.raises(AssertionError):
        assert_same(plain, exported, images)
    sizes = [(tmp_path / f"{name}.{suffix}").stat().st_size for name in ("model", "plain")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01), "the adapters are not in the file"
