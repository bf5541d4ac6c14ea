"""Rasterization of polygons and RLE to instance masks."""

from typing import Any

import numpy as np
import torch
from hotcoco import mask as rle
from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor
from torch.nn import functional as F

from libradet.data.records import ImageRecord
from libradet.data.segmentations import rounded_polygon
from libradet.errors import UserError

FULL_IMAGE = (slice(None), slice(None))


def decode_masks(
    image: ImageRecord, height: int, width: int, region: tuple[slice, slice] = FULL_IMAGE, use_boxes: bool = False
) -> UInt8[Tensor, "G h w"]:
    """Return masks, 0 or 1, of an image's objects, with the image resized to ``height`` and ``width``.

    The mask of a crowd region without segmentation is its box.

    Args:
        image: the image.
        height, width: of the resized image in pixels.
        region: rows and columns of the resized image to return.
        use_boxes: the mask of an object without segmentation is its box, too.

    Raises:
        UserError: an object has no segmentation.
    """
    region_size = [len(range(*part.indices(side))) for part, side in zip(region, (height, width), strict=True)]
    masks = torch.zeros(len(image.labels), *region_size, dtype=torch.uint8)
    scale = np.array([width / image.width, height / image.height])
    for i, segmentation in enumerate(image.segmentations or [None] * len(image.labels)):
        if isinstance(segmentation, list):
            masks[i] = _fill_polygons(segmentation, scale, height, width)[region]
        elif isinstance(segmentation, dict):
            masks[i] = _decode_rle(segmentation, height, width)[region]
        elif image.crowd[i] or use_boxes:
            masks[i] = _fill_box(image.boxes[i] * np.tile(scale, 2), height, width)[region]
        else:
            raise UserError(
                f"{image.path.name}: annotation {image.annotation_ids[i]} has no segmentation, and a model with masks "
                "needs one for every object. Add it, or use a model without masks."
            )
    return masks


def _fill_box(box: ndarray, height: int, width: int) -> Tensor:
    left, top, right, bottom = np.rint(box).astype(int)
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def _fill_polygons(polygons: list[ndarray], scale: ndarray, height: int, width: int) -> Tensor:
    scaled = [(rounded_polygon(p).reshape(-1, 2) * scale).ravel().tolist() for p in polygons]
    encoded = rle.frPyObjects(scaled, height, width)
    return torch.from_numpy(np.ascontiguousarray(rle.decode(rle.merge(encoded))))


def _decode_rle(segmentation: dict[str, Any], height: int, width: int) -> Tensor:
    mask = torch.from_numpy(np.ascontiguousarray(rle.decode(segmentation)))
    if mask.shape == (height, width):
        return mask
    return F.interpolate(mask[None, None].float(), (height, width), mode="area")[0, 0].ge(0.5).to(torch.uint8)
