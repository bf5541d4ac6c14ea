"""Shallow and narrow variants of backbones of several families."""

from functools import partial

import pytest
import timm

SWIN = {"depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (1, 2, 2, 4)}
# A ViT; rotary embeddings; queries, keys and values in separate layers; windows; weights used without their layer; a
# ConvNeXt with the weights of DINOv3.
SMALL: dict[str, dict] = {
    "test_vit": {},
    "vit_small_patch16_dinov3": {"depth": 1},
    "eva02_tiny_patch14_224": {"depth": 1},
    "swin_tiny_patch4_window7_224": SWIN,
    "swinv2_tiny_window8_256": SWIN,
    "convnext_tiny.dinov3_lvd1689m": {"depths": (1, 1, 1, 1), "dims": (8, 16, 32, 64)},
}
_create_model = timm.create_model


def make_small(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let timm build the small variant of a model of that name."""
    monkeypatch.setattr(timm, "create_model", partial(_create_model, **SMALL[name]))
