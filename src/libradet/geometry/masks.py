"""Masks packed into bits, cut out around boxes, and put back.

Cutting out and putting back have the sub-pixel conventions of aligned RoIAlign and of ``grid_sample`` without
aligned corners: those of mmdetection and detectron2. torchvision rounds boxes to whole pixels before it puts a
mask back, so that its masks differ by up to a pixel along their edges, and lacks the half-pixel shift when it
cuts one out.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Num, UInt8
from numpy import ndarray
from torch import Tensor
from torchvision.ops import roi_align

_AT_ONCE = 32
"""Masks that are unpacked together: at 800 x 1344 pixels 138 MB, however many objects an image has."""


def pack_masks(masks: UInt8[Tensor, "*G H W"]) -> UInt8[Tensor, "*G H W8"]:
    """Masks of 0 and 1 (on the CPU) with eight pixels of a row to a byte, the first in the highest bit."""
    return torch.from_numpy(np.packbits(masks.numpy(), axis=-1))


def unpack_masks(packed: UInt8[Tensor, "*G H W8"], width: int) -> UInt8[Tensor, "*G H {width}"]:
    """What :func:`pack_masks` packed, ``width`` pixels wide."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    return ((packed[..., None] >> shifts) & 1).flatten(-2)[..., :width]


@torch.library.custom_op("libradet::crop_masks", mutates_args=())
def _crop_masks(masks: Tensor, boxes: Tensor, gt: Tensor, valid: Tensor, size: int, width: int) -> Tensor:
    out = torch.zeros((*boxes.shape[:2], size, size), device=boxes.device)
    for b in range(len(boxes)):
        for start in range(0, masks.shape[1], _AT_ONCE):
            some = masks[b, start : start + _AT_ONCE]
            some = some if some.shape[-1] == width else unpack_masks(some, width)
            row = gt[b] - start
            here = valid[b] & (row >= 0) & (row < len(some))
            # A box without area costs nothing and gives zeros.
            rois = torch.cat([row[:, None], boxes[b]], dim=1).float().where(here[:, None], 0)
            out[b] += roi_align(some[:, None].float(), rois, size, 1.0, 0, True)[:, 0]
    return out


@_crop_masks.register_fake
def _(masks, boxes, gt, valid, size, width):
    return boxes.new_empty((*boxes.shape[:2], size, size), dtype=torch.float32)


def crop_masks(
    masks: Num[Tensor, "B G H _"],
    boxes: Float[Tensor, "B S 4"],
    gt: Int[Tensor, "B S"],
    valid: Bool[Tensor, "B S"],
    size: int,
    width: int,
) -> Float32[Tensor, "B S size size"]:
    """The part of mask ``gt`` that each box sees, 0..1, in ``size`` x ``size`` cells; zeros where not ``valid``.

    Args:
        masks: ``width`` pixels wide, or packed (:func:`pack_masks`).
    """
    return _crop_masks(masks, boxes.detach(), gt, valid, size, width)


def paste_masks(
    masks: Float32[ndarray, "D M M"], boxes: Float64[ndarray, "D 4"], height: int, width: int, threshold: float = 0.5
) -> Iterator[tuple[slice, slice, Bool[ndarray, "_ _"]]]:
    """Where in an image of ``height`` x ``width`` pixels the mask of each box reaches ``threshold``.

    A pixel counts by its center; between the mask's cells, and half a cell around them, it is interpolated.

    Yields:
        rows and columns of the window around each box (perhaps empty), and the pixels there.
    """
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.tolist(), strict=True):
        rows, down = _window(y0, y1, height, mask.shape[0])
        columns, across = _window(x0, x1, width, mask.shape[1])
        # Bilinear interpolation, one axis after the other.
        yield rows, columns, down @ mask @ across.T >= threshold


def _window(low: float, high: float, end: int, cells: int) -> tuple[slice, Float32[ndarray, "_ {cells}"]]:
    """The pixels below ``end`` that an interval touches, and how much each of its cells weighs in them."""
    first, last = max(int(low) - 1, 0), min(int(high) + 2, end)
    if high <= low or last <= first:
        return slice(0, 0), np.zeros((0, cells), np.float32)
    position = (np.arange(first, last) + 0.5 - low) / (high - low) * cells - 0.5
    weights = (1 - np.abs(position[:, None] - np.arange(cells))).clip(0, None)
    return slice(first, last), weights.astype(np.float32)
