"""Masks packed into bits, cropped to boxes, and pasted into images.

Cropping and pasting use the sub-pixel conventions of aligned RoIAlign and of ``grid_sample`` without aligned corners:
those of mmdetection and detectron2. torchvision rounds boxes to whole pixels before pasting, so that its masks differ
by up to a pixel along their edges, and omits the half-pixel shift in cropping.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Num, UInt8
from numpy import ndarray
from torch import Tensor
from torchvision.ops import roi_align

_CHUNK_SIZE = 32
"""Number of masks that are unpacked together: at 800 x 1344 pixels 138 MB, independent of the number of objects."""


def pack_masks(masks: UInt8[Tensor, "*G H W"]) -> UInt8[Tensor, "*G H W8"]:
    """Pack masks of 0 and 1 (on the CPU) into bits: eight pixels of a row per byte, the first in the highest bit."""
    return torch.from_numpy(np.packbits(masks.numpy(), axis=-1))


def unpack_masks(packed: UInt8[Tensor, "*G H W8"], width: int) -> UInt8[Tensor, "*G H {width}"]:
    """Unpack the result of :func:`pack_masks` to masks ``width`` pixels wide."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    return ((packed[..., None] >> shifts) & 1).flatten(-2)[..., :width]


@torch.library.custom_op("libradet::crop_masks", mutates_args=())
def _crop_masks(masks: Tensor, boxes: Tensor, gt: Tensor, valid: Tensor, size: int, width: int) -> Tensor:
    out = torch.zeros((*boxes.shape[:2], size, size), device=boxes.device)
    for b in range(len(boxes)):
        for start in range(0, masks.shape[1], _CHUNK_SIZE):
            chunk = masks[b, start : start + _CHUNK_SIZE]
            chunk = chunk if chunk.shape[-1] == width else unpack_masks(chunk, width)
            row = gt[b] - start
            in_chunk = valid[b] & (row >= 0) & (row < len(chunk))
            # RoIAlign of a box without area needs no time and returns zeros.
            rois = torch.cat([row[:, None], boxes[b]], dim=1).float().where(in_chunk[:, None], 0)
            out[b] += roi_align(chunk[:, None].float(), rois, size, 1.0, 0, True)[:, 0]
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
    """Crop mask ``gt`` to each box and resize it to ``size`` x ``size`` cells, 0..1; zeros where not ``valid``.

    Args:
        masks: ``width`` pixels wide, or packed (:func:`pack_masks`).
    """
    return _crop_masks(masks, boxes.detach(), gt, valid, size, width)


def paste_masks(
    masks: Float32[ndarray, "D M M"], boxes: Float64[ndarray, "D 4"], height: int, width: int, threshold: float = 0.5
) -> Iterator[tuple[slice, slice, Bool[ndarray, "_ _"]]]:
    """Paste the mask of each box into an image of ``height`` x ``width`` pixels, and apply ``threshold``.

    Masks are interpolated bilinearly at pixel centers, and fade to 0 half a cell outside their cells.

    Yields:
        rows and columns of the window around each box (possibly empty), and the binary mask in this window.
    """
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.tolist(), strict=True):
        rows, down = _window(y0, y1, height, mask.shape[0])
        columns, across = _window(x0, x1, width, mask.shape[1])
        # Bilinear interpolation, one axis after the other.
        yield rows, columns, down @ mask @ across.T >= threshold


def _window(low: float, high: float, end: int, cells: int) -> tuple[slice, Float32[ndarray, "_ {cells}"]]:
    """Return the pixels below ``end`` that an interval overlaps, and the weight of each of its cells in them."""
    first, last = max(int(low) - 1, 0), min(int(high) + 2, end)
    if high <= low or last <= first:
        return slice(0, 0), np.zeros((0, cells), np.float32)
    position = (np.arange(first, last) + 0.5 - low) / (high - low) * cells - 0.5
    weights = (1 - np.abs(position[:, None] - np.arange(cells))).clip(0, None)
    return slice(first, last), weights.astype(np.float32)
