"""State dicts with detectron2's names."""

import numpy as np
import torch
from torch import Tensor


def random_rows(name: str, shape) -> Tensor:
    """Return random values that differ between rows. Values of a row are equal, which keeps files small."""
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        return torch.rand(shape) + 0.5
    rows = torch.randn(shape[0], *[1] * (len(shape) - 1))
    return (rows / max(1, int(np.prod(shape[1:]))) ** 0.5).expand(*shape)


def detectron2_state(channels: int = 256, fc_dim: int = 1024) -> dict[str, Tensor]:
    """Return a Faster R-CNN of three classes on ResNet-50; ``channels`` are those of the pyramid."""
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
        layer(f"backbone.fpn_lateral{stage + 2}", channels, width, 1, 1)
        layer(f"backbone.fpn_output{stage + 2}", channels, channels, 3, 3)
    layer("proposal_generator.rpn_head.conv", channels, channels, 3, 3)
    layer("proposal_generator.rpn_head.objectness_logits", 3, channels, 1, 1)
    layer("proposal_generator.rpn_head.anchor_deltas", 12, channels, 1, 1)
    layer("roi_heads.box_head.fc1", fc_dim, channels * 49)
    layer("roi_heads.box_head.fc2", fc_dim, fc_dim)
    layer("roi_heads.box_predictor.cls_score", 4, fc_dim)
    layer("roi_heads.box_predictor.bbox_pred", 12, fc_dim)
    return {name: random_rows(name, shape) for name, shape in shapes.items()}


def fingerprint(t: Tensor) -> float:
    """Return a number that depends on every row."""
    rows = t.double().reshape(len(t), -1)[:, 0] if t.dim() else t.double()[None]
    return float(rows @ torch.arange(1, len(rows) + 1, dtype=torch.float64))
