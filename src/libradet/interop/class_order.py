"""Conversion of class layers between background first (mmdetection 1, torchvision) and last (newer, and ours)."""

import torch
from torch import Tensor

BOX_HEADS = ("roi.", "roi.0.", "roi.1.", "roi.2.")
LOGITS = tuple(f"{head}logits." for head in BOX_HEADS)
DELTAS = tuple(f"{head}deltas." for head in BOX_HEADS)
MASK_LOGITS = ("mask.logits.",)


def background_to_last(name: str, rows: Tensor) -> Tensor:
    """Return the rows of the layer that we call ``name`` in our order; background comes first in ``rows``."""
    if name.startswith(LOGITS):
        return torch.cat([rows[1:], rows[:1]])
    if name.startswith(DELTAS) and len(rows) > 4:
        return rows[4:]
    return rows[1:] if name.startswith(MASK_LOGITS) else rows


def background_to_first(name: str, rows: Tensor) -> Tensor:
    """Return the reverse of :func:`background_to_last`; deltas and masks of background, which are unused, are zero."""
    if name.startswith(LOGITS):
        return torch.cat([rows[-1:], rows[:-1]])
    if name.startswith(DELTAS) and len(rows) > 4:
        return torch.cat([torch.zeros_like(rows[:4]), rows])
    return torch.cat([torch.zeros_like(rows[:1]), rows]) if name.startswith(MASK_LOGITS) else rows


def sizes_to_last(name: str, rows: Tensor, sizes: int, ratios: int) -> Tensor:
    """Return the rows of RetinaNet's last layers by ratio, then size, as ours; ``rows`` are by size, then ratio."""
    if not name.startswith(("retinanet.logits.", "retinanet.deltas.")):
        return rows
    return rows.unflatten(0, (sizes, ratios, -1)).transpose(0, 1).flatten(0, 2)
