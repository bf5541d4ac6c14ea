"""detectron2's checkpoints."""

import numpy as np
import torch
from torch import Tensor

import libradet


def fill_one(name: str, shape) -> Tensor:
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return torch.rand(shape) + 0.5
    return torch.randn(shape) * (2 / max(1, int(np.prod(shape[1:])))) ** 0.5


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
    ours = sorted(t.flatten().double().sum().item() for n, t in model.state_dict().items() if "num_batches" not in n)
    assert ours == sorted(t.flatten().double().sum().item() for t in state.values())
    own = model.state_dict()
    shortcut = "backbone.body.layer2.0.downsample.0"
    assert torch.equal(own[f"{shortcut}.conv.weight"], state["backbone.bottom_up.res3.0.shortcut.weight"])
    assert torch.equal(own[f"{shortcut}.norm.bias"], state["backbone.bottom_up.res3.0.shortcut.norm.bias"])
    assert torch.equal(own["pyramid.lateral.3.weight"], state["backbone.fpn_lateral5.weight"])
    block = model.backbone.body.layer2[0]
    assert (block.conv1.conv.stride, block.conv2.conv.stride) == ((2, 2), (1, 1))
    assert (model.config.image.channels, model.config.image.mean) == ("bgr", (103.53, 116.28, 123.675))
    assert len(model.predict(np.zeros((64, 64, 3), np.uint8), size="original")) >= 0


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
    theirs, ours = state["head.cls_score.bias"].view(3, 3, 5), model.dense.logits.bias.view(3, 3, 5)
    assert all(torch.equal(ours[ratio, size], theirs[size, ratio]) for ratio in range(3) for size in range(3))
