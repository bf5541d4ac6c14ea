"""torchvision's checkpoints give the detections of torchvision, and can be written again."""

import re
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection.roi_heads import paste_masks_in_image

from libradet.cli import main
from libradet.data.collate import prepare_batch
from libradet.interop.loading import load_checkpoint
from libradet.interop.torchvision import balance
from libradet.models.detector import Detector
from libradet.models.serialization import load_model, save_model

CLASSES = 6
PREFIX = "not stored in torchvision checkpoints;"
# Sides are not multiples of the canvas's, one image lies and one stands.
IMAGES = {
    size: np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((90, 150), (161, 97))
}
NAMES = (
    *("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"),
    "maskrcnn_resnet50_fpn",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("maskrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_fpn")
    ),
    # Balanced in their own toolbox.
    "libra fasterrcnn_resnet50_fpn",
    *(
        pytest.param(f"libra {name}", marks=pytest.mark.slow)
        for name in (
            *("fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_fpn"),
            *("retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"),
        )
    ),
)


class Pair(NamedTuple):
    there: nn.Module
    here: Detector


def make(name: str, **options) -> nn.Module:
    libra, _, plain = name.rpartition(" ")
    model = torchvision.models.get_model(plain, weights=None, weights_backbone=None, **options)
    if libra:
        balance(model, sampling="rcnn" in plain)
        nn.init.normal_(model.backbone.balance.refine.out.weight, std=0.1)
    return model.eval()


def spread_outputs(model: nn.Module, **deviations: float) -> None:
    """Scores and boxes of a fresh detector hardly differ; this one's spread on the first image."""
    for name, t in model.state_dict().items():
        if name.endswith("running_mean"):
            t.copy_(torch.randn_like(t) * 0.1)
        elif name.endswith("running_var"):
            t.copy_(torch.rand_like(t) + 1.5)
    # Not far from 0: there, proposals are ranked by sigmoid scores, which are all 1 where logits are large.
    spreads = {"cls_logits": 0.7, "bbox_pred": 0.3, "cls_score": 2.0, "bbox_reg": 0.1, "mask_fcn_logits": 1.5}
    spreads |= deviations
    hooks = []
    for name, layer in model.named_modules():
        # Depthwise convolutions of a fresh MobileNet let features vanish.
        if isinstance(layer, nn.Conv2d) and (".conv." in name or re.match(r"backbone\.body\.\d", name)):
            nn.init.kaiming_normal_(layer.weight)
        if (wanted := spreads.get(name.split(".")[-1])) is not None:
            hooks.append(layer.register_forward_hook(spread(wanted)))
    run(model, next(iter(IMAGES.values())))
    for hook in hooks:
        hook.remove()


def spread(deviation: float):
    """Let every channel of a layer have this deviation around 0 on the first input that it sees."""

    def hook(layer: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor | None:
        if hasattr(layer, "was_spread"):
            return None
        layer.was_spread = True
        others = [d for d in range(output.dim()) if d != 1]
        scale = deviation / output.std(others).clamp(min=1e-6)
        layer.weight.data *= scale.view(-1, *[1] * (layer.weight.dim() - 1))
        layer.bias.data = (layer.bias.data - output.mean(others)) * scale
        return layer.forward(*inputs)

    return hook


@pytest.fixture(scope="module", params=NAMES)
def pair(request, tmp_path_factory) -> Pair:
    torch.manual_seed(0)
    # Few proposals, here as there, for a quick test.
    two = "rcnn" in request.param
    few = {"rpn_post_nms_top_n_test": 60, "box_detections_per_img": 30} if two else {"detections_per_img": 30}
    there = make(request.param, num_classes=CLASSES, min_size=1, max_size=10_000, **few)
    spread_outputs(there)
    path = tmp_path_factory.mktemp("torchvision") / "x.pth"
    torch.save(there.state_dict(), path)
    here = load_checkpoint(path).model
    path.unlink()
    here.config.detections.detections_per_img = 30
    if two:
        here.config.rpn.test_proposals.post_nms_top_n = 60
    return Pair(there, here)


def run(there: nn.Module, image: np.ndarray) -> dict[str, torch.Tensor]:
    # Not resized: the short side is asked to be what it is.
    there.transform.min_size = (min(image.shape[:2]),)
    with torch.inference_mode():
        return there([torch.from_numpy(image).permute(2, 0, 1) / 255])[0]


@pytest.mark.parametrize("size", IMAGES)
def test_detections(pair, size):
    image = IMAGES[size]
    expected = run(pair.there, image)
    found = pair.here.predict(image, score_thresh=0.0, size="original")
    assert len(found) > 10
    assert np.ptp(found.confidence) > 0.01
    assert len(set(found.class_id)) > 1
    background = hasattr(pair.there, "rpn")
    assert found.class_id.tolist() == (expected["labels"] - int(background)).tolist()
    np.testing.assert_allclose(found.confidence, expected["scores"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(found.xyxy, expected["boxes"], atol=1e-3, rtol=0)


def test_features(pair):
    image = IMAGES[161, 97]
    with torch.inference_mode():
        pair.there.transform.min_size = (97,)
        canvas, _ = pair.there.transform([torch.from_numpy(image).permute(2, 0, 1) / 255])
        expected = pair.there.backbone(canvas.tensors)
        found = pair.here.extract_features(prepare_batch([image], "original", pair.here.size_divisible))
    for level, other in zip(found, expected.values(), strict=True):
        assert other.std() > 0.05
        torch.testing.assert_close(level, other, atol=1e-3, rtol=1e-3)


def test_masks(pair):
    if pair.here.mask is None:
        pytest.skip("has no masks")
    image = IMAGES[161, 97]
    expected = run(pair.there, image)
    with torch.inference_mode():
        found = pair.here(prepare_batch([image], "original", pair.here.size_divisible))
    probabilities = found.masks[0, found.valid[0]]
    assert probabilities.std() > 0.1
    pasted = paste_masks_in_image(probabilities[:, None], expected["boxes"], image.shape[:2])
    torch.testing.assert_close(pasted, expected["masks"], atol=1e-3, rtol=0)


def test_round_trip(pair, tmp_path, capsys):
    save_model(pair.here, tmp_path / "x.safetensors")
    out = tmp_path / "deep" / "y.pth"
    assert main(["convert", str(tmp_path / "x.safetensors"), str(out), "--to", "torchvision"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith(PREFIX)]
    # What was changed for a quick test, and nothing else.
    totals = [
        "rpn.test_proposals.post_nms_top_n: 60 here, 1000 there",
        "detections.detections_per_img: 30 here, 100 there",
    ]
    totals = totals if pair.here.rpn is not None else ["detections.detections_per_img: 30 here, 300 there"]
    totals += ["the balanced pyramid, by libradet.interop.torchvision.balance"] if pair.here.balance else []
    assert said == [f"{PREFIX} set it in the arguments of the torchvision model: {total}" for total in totals]
    back, state = torch.load(out, weights_only=True), pair.there.state_dict()
    assert back.keys() == state.keys()
    unused = ("bbox_pred.", "mask_fcn_logits.")
    for name, t in state.items():
        # Deltas and masks of background, which are unused, are zero.
        rows = len(t) // CLASSES if name.startswith("roi_heads.") and any(u in name for u in unused) else 0
        assert torch.equal(back[name][rows:], t[rows:]) if t.dim() else torch.equal(back[name], t), name
    before = run(pair.there, IMAGES[90, 150])
    pair.there.load_state_dict(back, strict=True)
    after = run(pair.there, IMAGES[90, 150])
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_names_before_version_0_14(tmp_path):
    state = make("fasterrcnn_resnet50_fpn").state_dict()
    old = {n.replace("blocks.0.0.", "blocks.0.").replace("head.conv.0.0.", "head.conv."): t for n, t in state.items()}
    assert old.keys() != state.keys()
    torch.save({"model": old, "epoch": 3}, tmp_path / "x.pth")
    model = load_checkpoint(tmp_path / "x.pth").model
    assert torch.equal(model.rpn.convs[0].weight, state["rpn.head.conv.0.0.weight"])
    assert model.class_names[11] == "N/A"
    assert model.category_ids == list(range(1, 91))


def published(name: str, classes: int, frozen: bool = True) -> dict[str, torch.Tensor]:
    """Weights as torchvision publishes them: frozen norms count no batches."""
    state = make(name, num_classes=classes).state_dict()
    return {n: t for n, t in state.items() if not frozen or not n.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    ("name", "classes", "frozen", "eps"),
    [
        ("fasterrcnn_resnet50_fpn", 91, True, 0.0),
        ("retinanet_resnet50_fpn", 91, True, 0.0),
        ("fasterrcnn_resnet50_fpn", 91, False, 1e-5),
        ("fasterrcnn_resnet50_fpn", 3, True, 1e-5),
    ],
)
def test_epsilon_of_published_weights(tmp_path, name, classes, frozen, eps):
    torch.save(published(name, classes, frozen), tmp_path / "x.pth")
    model = load_checkpoint(tmp_path / "x.pth").model
    assert {m.eps for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)} == {eps}
    assert model.config.backbone.frozen_norm == frozen


def test_epsilon_by_option(tmp_path, capsys):
    torch.save(published("fasterrcnn_resnet50_fpn", 3), tmp_path / "x.pth")
    argv = ["convert", str(tmp_path / "x.pth"), str(tmp_path / "y.safetensors"), "--norm_eps", "0"]
    assert main(argv) == 0
    model = load_model(tmp_path / "y.safetensors")
    assert {m.eps for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)} == {0.0}
    assert main([*argv[:-1], "-1"]) == 2
    assert "--norm_eps" in capsys.readouterr().err
