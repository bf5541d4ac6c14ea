"""detectron2's checkpoints."""

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

import libradet


def fill_one(name: str, shape) -> Tensor:
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return torch.rand(shape) + 0.5
    # Rows of one value keep files small.
    rows = torch.randn(shape[0], *[1] * (len(shape) - 1))
    return (rows / max(1, int(np.prod(shape[1:]))) ** 0.5).expand(*shape)


def fingerprint(t: Tensor) -> float:
    """A number that knows every row."""
    rows = t.double().reshape(len(t), -1)[:, 0]
    return float(rows @ torch.arange(1, len(rows) + 1, dtype=torch.float64))


def all_used(model, state) -> bool:
    ours = sorted(fingerprint(t) for n, t in model.state_dict().items() if "num_batches" not in n)
    return ours == sorted(fingerprint(t) for t in state.values())


def detectron2_state() -> dict[str, Tensor]:
    """A ResNet-50 Faster R-CNN of three classes under detectron2's names."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name, o, i, k):
        shapes[f"{name}.weight"] = (o, i, k, k)
        shapes.update({f"{name}.norm.{part}": (o,) for part in ("weight", "bias", "running_mean", "running_var")})

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    conv("backbone.bottom_up.stem.conv1", 64, 3, 7)
    width = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = 64 * 2**stage
        for b in range(blocks):
            block = f"backbone.bottom_up.res{stage + 2}.{b}."
            if b == 0:
                conv(f"{block}shortcut", 4 * inner, width, 1)
            conv(f"{block}conv1", inner, width, 1)
            conv(f"{block}conv2", inner, inner, 3)
            conv(f"{block}conv3", 4 * inner, inner, 1)
            width = 4 * inner
        layer(f"backbone.fpn_lateral{stage + 2}", 256, width, 1, 1)
        layer(f"backbone.fpn_output{stage + 2}", 256, 256, 3, 3)
    layer("proposal_generator.rpn_head.conv", 256, 256, 3, 3)
    layer("proposal_generator.rpn_head.objectness_logits", 3, 256, 1, 1)
    layer("proposal_generator.rpn_head.anchor_deltas", 12, 256, 1, 1)
    layer("roi_heads.box_head.fc1", 1024, 12544)
    layer("roi_heads.box_head.fc2", 1024, 1024)
    layer("roi_heads.box_predictor.cls_score", 4, 1024)
    layer("roi_heads.box_predictor.bbox_pred", 12, 1024)
    return {name: fill_one(name, shape) for name, shape in shapes.items()}


def test_detectron2(tmp_path):
    state = detectron2_state()
    buffers = {"proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4)}
    torch.save({"model": state | buffers, "iteration": 5}, tmp_path / "x.pth")
    model = libradet.load_model(tmp_path / "x.pth")
    assert all_used(model, state)
    own = model.state_dict()
    shortcut = "backbone.body.layer2.0.downsample.0"
    assert torch.equal(own[f"{shortcut}.conv.weight"], state["backbone.bottom_up.res3.0.shortcut.weight"])
    assert torch.equal(own[f"{shortcut}.norm.bias"], state["backbone.bottom_up.res3.0.shortcut.norm.bias"])
    assert torch.equal(own["pyramid.lateral.3.weight"], state["backbone.fpn_lateral5.weight"])
    block = model.backbone.body.layer2[0]
    assert (block.conv1.conv.stride, block.conv2.conv.stride) == ((2, 2), (1, 1))
    assert (model.config.image.channels, model.config.image.mean) == ("bgr", (103.53, 116.28, 123.675))
    assert not model.config.roi.num_convs


@pytest.mark.parametrize("kind", ["pth", "pkl"])
def test_cascade_with_masks(tmp_path, kind):
    state = detectron2_state()
    for name in [n for n in state if n.startswith("roi_heads.")]:
        t = state.pop(name)
        t = t[:4] if "bbox_pred" in name else t
        for stage in range(3):
            state[name.replace("box_head.", f"box_head.{stage}.").replace("predictor.", f"predictor.{stage}.")] = (
                t + stage
            )
    for i in range(4):
        name = f"roi_heads.mask_head.mask_fcn{i + 1}"
        state[f"{name}.weight"], state[f"{name}.bias"] = fill_one("", (256, 256, 3, 3)), torch.randn(256)
    for name, shape in (("deconv", (256, 256, 2, 2)), ("predictor", (3, 256, 1, 1))):
        state[f"roi_heads.mask_head.{name}.weight"] = fill_one("", shape)
        state[f"roi_heads.mask_head.{name}.bias"] = torch.randn(shape[0])
    if kind == "pth":
        torch.save({"model": state, "scheduler": {}}, tmp_path / "x")
    else:
        arrays = {n: t.numpy() for n, t in state.items() if not n.startswith("backbone.bottom_up.res5")}
        whole = {n: t.contiguous().numpy() for n, t in state.items() if n.startswith("backbone.bottom_up.res5")}
        (tmp_path / "x").write_bytes(pickle.dumps({"model": arrays | whole, "__author__": "Detectron2 Model Zoo"}))
    model = libradet.load_model(tmp_path / "x")
    assert all_used(model, state)
    config = model.config
    assert (config.model, config.cascade.average, config.roi.class_agnostic) == ("cascade_rcnn", "scores", True)
    assert config.cascade.box_stds[2] == pytest.approx((1 / 30, 1 / 30, 1 / 15, 1 / 15))
    assert torch.equal(model.roi[2].logits.weight, state["roi_heads.box_predictor.2.cls_score.weight"])


def test_a_head_of_convolutions_and_norms(tmp_path):
    state = detectron2_state()
    for name in list(state):
        if name.startswith("backbone.fpn_") and name.endswith(".bias"):
            del state[name]
            for part in ("weight", "bias"):
                state[name.replace(".bias", f".norm.{part}")] = torch.randn(256)
    del state["roi_heads.box_head.fc2.weight"], state["roi_heads.box_head.fc2.bias"]
    for i in range(1, 5):
        state[f"roi_heads.box_head.conv{i}.weight"] = fill_one("", (256, 256, 3, 3))
        for part in ("weight", "bias"):
            state[f"roi_heads.box_head.conv{i}.norm.{part}"] = torch.randn(256)
    torch.save({"model": state}, tmp_path / "x.pth")
    model = libradet.load_model(tmp_path / "x.pth")
    assert all_used(model, state)
    roi = model.config.roi
    assert (model.config.pyramid.norm, roi.num_convs, roi.norm, roi.num_fcs) == ("group", 4, "group", 1)


def test_detectron2_sorts_anchors_by_size(tmp_path):
    state = {n: t for n, t in detectron2_state().items() if not n.startswith(("roi_heads.", "proposal_generator."))}
    state = {n: t for n, t in state.items() if not n.startswith(("backbone.fpn_lateral2", "backbone.fpn_output2"))}
    for part, last, rows in (("cls_subnet", "cls_score", 9 * 5), ("bbox_subnet", "bbox_pred", 9 * 4)):
        names = [f"head.{part}.{i}" for i in (0, 2, 4, 6)] + [f"head.{last}"]
        for name, out in zip(names, [256] * 4 + [rows], strict=True):
            state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(out, 256, 3, 3) * 0.02, torch.randn(out)
    for i, width in ((6, 2048), (7, 256)):
        state[f"backbone.top_block.p{i}.weight"] = torch.randn(256, width, 3, 3) * 0.01
        state[f"backbone.top_block.p{i}.bias"] = torch.randn(256)
    torch.save({"model": state}, tmp_path / "x.pth")
    model = libradet.load_model(tmp_path / "x.pth")
    assert model.config.num_classes == 5
    assert model.config.pyramid.extra_relu
    assert model.config.retinanet.clip_last
    theirs, ours = state["head.cls_score.bias"].view(3, 3, 5), model.retinanet.logits.bias.view(3, 3, 5)
    assert all(torch.equal(ours[ratio, size], theirs[size, ratio]) for ratio in range(3) for size in range(3))
