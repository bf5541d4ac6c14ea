"""detectron2's checkpoints."""

import pickle

import pytest
import torch

import libradet
from tests.helpers.detectron2_state import detectron2_state, fingerprint, random_rows

CHANNELS, FC_DIM = 32, 64


def all_used(model, state) -> bool:
    ours = sorted(fingerprint(t) for n, t in model.state_dict().items() if "num_batches" not in n)
    return ours == sorted(fingerprint(t) for t in state.values())


def small_state():
    """Return a detector with narrow heads, which is quicker to build."""
    return detectron2_state(CHANNELS, FC_DIM)


def test_faster_rcnn(tmp_path):
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
    state = small_state()
    for name in [n for n in state if n.startswith("roi_heads.")]:
        t = state.pop(name)
        t = t[:4] if "bbox_pred" in name else t
        for stage in range(3):
            state[name.replace("box_head.", f"box_head.{stage}.").replace("predictor.", f"predictor.{stage}.")] = (
                t + stage
            )
    for i in range(4):
        name = f"roi_heads.mask_head.mask_fcn{i + 1}"
        shape = (256, CHANNELS if i == 0 else 256, 3, 3)
        state[f"{name}.weight"], state[f"{name}.bias"] = random_rows("", shape), torch.randn(256)
    for name, shape in (("deconv", (256, 256, 2, 2)), ("predictor", (3, 256, 1, 1))):
        state[f"roi_heads.mask_head.{name}.weight"] = random_rows("", shape)
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


def test_box_head_of_convolutions_and_norms(tmp_path):
    state = small_state()
    for name in list(state):
        if name.startswith("backbone.fpn_") and name.endswith(".bias"):
            del state[name]
            for part in ("weight", "bias"):
                state[name.replace(".bias", f".norm.{part}")] = torch.randn(CHANNELS)
    del state["roi_heads.box_head.fc2.weight"], state["roi_heads.box_head.fc2.bias"]
    for i in range(1, 5):
        state[f"roi_heads.box_head.conv{i}.weight"] = random_rows("", (CHANNELS, CHANNELS, 3, 3))
        for part in ("weight", "bias"):
            state[f"roi_heads.box_head.conv{i}.norm.{part}"] = torch.randn(CHANNELS)
    torch.save({"model": state}, tmp_path / "x.pth")
    model = libradet.load_model(tmp_path / "x.pth")
    assert all_used(model, state)
    roi = model.config.roi
    assert (model.config.pyramid.norm, roi.num_convs, roi.norm, roi.num_fcs) == ("group", 4, "group", 1)


def test_retinanet_anchors_are_sorted_by_size(tmp_path):
    state = {n: t for n, t in small_state().items() if not n.startswith(("roi_heads.", "proposal_generator."))}
    state = {n: t for n, t in state.items() if not n.startswith(("backbone.fpn_lateral2", "backbone.fpn_output2"))}
    for part, last, rows in (("cls_subnet", "cls_score", 9 * 5), ("bbox_subnet", "bbox_pred", 9 * 4)):
        names = [f"head.{part}.{i}" for i in (0, 2, 4, 6)] + [f"head.{last}"]
        for name, out in zip(names, [CHANNELS] * 4 + [rows], strict=True):
            state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(out, CHANNELS, 3, 3) * 0.02, torch.randn(out)
    for i, width in ((6, 2048), (7, CHANNELS)):
        state[f"backbone.top_block.p{i}.weight"] = torch.randn(CHANNELS, width, 3, 3) * 0.01
        state[f"backbone.top_block.p{i}.bias"] = torch.randn(CHANNELS)
    torch.save({"model": state}, tmp_path / "x.pth")
    model = libradet.load_model(tmp_path / "x.pth")
    assert model.config.num_classes == 5
    assert model.config.pyramid.extra_relu
    assert model.config.retinanet.clip_last
    theirs, ours = state["head.cls_score.bias"].view(3, 3, 5), model.retinanet.logits.bias.view(3, 3, 5)
    assert all(torch.equal(ours[ratio, size], theirs[size, ratio]) for ratio in range(3) for size in range(3))
