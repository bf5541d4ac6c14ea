"""Detectors on backbones of many families: features, a training step, saving and loading."""

import pytest
import torch

from libradet.models.backbone import Backbone
from libradet.models.config import BACKBONE_STRIDES, BackboneConfig
from libradet.models.serialization import load_model, save_model
from tests.helpers.tiny_detectors import tiny_batch, tiny_detector, tiny_zoo_config

NAMES = [
    "resnet50",
    "resnet101",
    "resnext101_64x4d",
    "convnext_pico",
    "convnext_tiny.dinov3_lvd1689m",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
]
CHANNELS = {
    "convnext_pico": [64, 128, 256, 512],
    "convnext_tiny.dinov3_lvd1689m": [96, 192, 384, 768],
    "swin_tiny_patch4_window7_224": [96, 192, 384, 768],
    "swinv2_tiny_window8_256": [96, 192, 384, 768],
}
PARAMETERS = {"resnet50": 23.5e6, "resnet101": 42.5e6, "resnext101_64x4d": 81.4e6}
LARGE = {"resnet101", "resnext101_64x4d", "convnext_tiny.dinov3_lvd1689m", "swinv2_tiny_window8_256"}


def marked(names):
    return [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in names]


@pytest.mark.parametrize("name", NAMES)
def test_features_are_channels_first_at_any_input_size(name):
    with torch.device("meta"):
        backbone = Backbone(BackboneConfig(name))
    channels = CHANNELS.get(name, [256, 512, 1024, 2048])
    assert backbone.channels == channels
    for height, width in ((96, 160), (224, 224), (800, 1344), (1344, 800)):
        features = backbone(torch.empty(2, 3, height, width, device="meta"))
        assert [tuple(f.shape) for f in features] == [
            (2, c, height // s, width // s) for c, s in zip(channels, BACKBONE_STRIDES, strict=True)
        ]
    parameters = sum(p.numel() for p in backbone.parameters())
    assert parameters == pytest.approx(PARAMETERS.get(name, parameters), rel=2e-3)


@pytest.mark.parametrize("name", marked(NAMES))
def test_a_detector_trains_detects_and_is_saved(name, tmp_path):
    config = tiny_zoo_config("libra_faster_rcnn")
    config.backbone, config.image.size_divisible = BackboneConfig(name), 32
    model, batch = tiny_detector(config), tiny_batch(size=(96, 160))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = model(batch)
    torch.stack(list(losses.values())).sum().backward()
    for part, p in model.named_parameters():
        assert p.grad is not None, part
        assert p.grad.isfinite().all(), part
    torch.nn.utils.clip_grad_norm_(model.parameters(), 35.0)
    optimizer.step()
    assert all(loss.isfinite() for loss in (*losses.values(), *model(batch).values()))
    save_model(model.eval(), tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    with torch.no_grad():
        found = model(batch)
        assert found.valid.any()
        for a, b in zip(found, again(batch), strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("name", ["convnext_pico", "swin_tiny_patch4_window7_224"])
def test_padding_hardly_changes_the_first_features(name):
    """A larger padding below and to the right does not change the features of the first cells much."""
    backbone = Backbone(BackboneConfig(name)).eval()
    image = torch.randn(1, 3, 224, 224)
    canvas = torch.zeros(1, 3, 224, 448)
    canvas[..., :224] = image
    with torch.no_grad():
        alone, padded = backbone(image)[0], backbone(canvas)[0]
    torch.testing.assert_close(padded[..., :28, :28], alone[..., :28, :28], atol=1e-3, rtol=1e-3)
