"""Where class layers differ: background first (mmdetection 1, torchvision) or last (here and elsewhere)."""

import torch
from torch import Tensor

CLASS_LAYERS = ("roi.logits.", "roi.0.logits.", "roi.1.logits.", "roi.2.logits.")
BOX_LAYERS = ("roi.deltas.", "roi.0.deltas.", "roi.1.deltas.", "roi.2.deltas.")
MASK_LAYERS = ("mask.logits.",)


def background_to_last(name: str, rows: Tensor) -> Tensor:
    """A layer under our ``name`` whose class 0 is background, as we have it."""
    if name.startswith(CLASS_LAYERS):
        return torch.cat([rows[1:], rows[:1]])
    if name.startswith(BOX_LAYERS) and len(rows) > 4:
        return rows[4:]
    return rows[1:] if name.startswith(MASK_LAYERS) else rows


def background_to_first(name: str, rows: Tensor) -> Tensor:
    """The reverse; background's deltas and masks, which nobody uses, are zero."""
    if name.startswith(CLASS_LAYERS):
        return torch.cat([rows[-1:], rows[:-1]])
    if name.startswith(BOX_LAYERS) and len(rows) > 4:
        return torch.cat([torch.zeros_like(rows[:4]), rows])
    return torch.cat([torch.zeros_like(rows[:1]), rows]) if name.startswith(MASK_LAYERS) else rows


def sizes_to_last(name: str, rows: Tensor, sizes: int, ratios: int) -> Tensor:
    """A one-stage head's last layer whose anchors are sorted by size, then by ratio, as we have it: ratio first."""
    if not name.startswith(("dense.logits.", "dense.deltas.")):
        return rows
    return rows.unflatten(0, (sizes, ratios, -1)).transpose(0, 1).flatten(0, 2)


def sizes_to_first(name: str, rows: Tensor, sizes: int, ratios: int) -> Tensor:
    """The reverse."""
    return sizes_to_last(name, rows, ratios, sizes)
