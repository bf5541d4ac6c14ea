"""Normalization layers and convolutions of pyramids and heads."""

import pytest
import torch
from torch import nn

from libradet.errors import UserError
from libradet.models.detector import Detector
from libradet.models.serialization import load_model, save_model
from tests.helpers.tiny_detectors import tiny_batch, tiny_zoo_config


def normed(name: str, norm: str):
    config = tiny_zoo_config(name)
    config.pyramid.channels = 32
    for part in (config.pyramid, config.roi, config.mask, config.retinanet):
        if part is not None:
            part.norm = norm
    if config.roi is not None:
        config.roi.num_convs, config.roi.num_fcs = 2, 1
    if config.mask is not None:
        config.mask.channels = 32
    return config


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", ["mask_rcnn", "retinanet"])
def test_training_reaches_every_parameter(tmp_path, name, norm):
    config = normed(name, norm)
    model = Detector(config).train()
    kind = nn.GroupNorm if norm == "group" else nn.BatchNorm2d
    assert sum(isinstance(m, kind) for n, m in model.named_modules() if not n.startswith("backbone.")) > 6
    losses = model(tiny_batch(masks=name == "mask_rcnn"))
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for n, p in model.named_parameters() if p.requires_grad)
    save_model(model, tmp_path / "x.safetensors")
    again = load_model(tmp_path / "x.safetensors")
    assert again.config == config
    with torch.inference_mode():
        torch.testing.assert_close(again(tiny_batch()), model.eval()(tiny_batch()), rtol=0, atol=0)


def test_a_normed_convolution_has_no_bias():
    model = Detector(normed("mask_rcnn", "group"))
    assert all(m.conv.bias is None for m in (*model.pyramid.lateral, *model.roi.convs, *model.mask.convs))
    assert not hasattr(model.roi, "fc2")


def test_groups_must_divide_channels():
    config = normed("retinanet", "group")
    config.pyramid.channels = 48
    with pytest.raises(UserError, match="48 channels"):
        Detector(config)


def test_a_box_head_needs_a_linear_layer():
    config = tiny_zoo_config("faster_rcnn")
    config.roi.num_fcs = 0
    with pytest.raises(UserError, match=r"roi\.num_fcs"):
        Detector(config)
