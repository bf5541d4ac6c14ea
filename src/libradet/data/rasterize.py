"""Segmentations drawn as masks."""

from typing import Any

import numpy as np
import torch
from hotcoco import mask as rle
from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor
from torch.nn import functional as F

from libradet.data.records import ImageRecord
from libradet.data.segmentations import points
from libradet.errors import UserError

EVERYTHING = (slice(None), slice(None))


def decode_masks(
    image: ImageRecord, height: int, width: int, part: tuple[slice, slice] = EVERYTHING, or_boxes: bool = False
) -> UInt8[Tensor, "G h w"]:
    """Masks of an image's objects, 0 or 1, with the image resized to ``height`` and ``width``.

    A crowd region without segmentation is its box.

    Args:
        part: rows and columns of the resized image to give.
        or_boxes: an object without segmentation is its box, too.

    Raises:
        UserError: an object has no segmentation.
    """
    spans = [len(range(*cut.indices(side))) for cut, side in zip(part, (height, width), strict=True)]
    masks = torch.zeros(len(image.labels), *spans, dtype=torch.uint8)
    scale = np.array([width / image.width, height / image.height])
    for i, found in enumerate(image.segmentations or [None] * len(image.labels)):
        if isinstance(found, list):
            masks[i] = _fill(found, scale, height, width)[part]
        elif isinstance(found, dict):
            masks[i] = _decode(found, height, width)[part]
        elif image.crowd[i] or or_boxes:
            masks[i] = _rectangle(image.boxes[i] * np.tile(scale, 2), height, width)[part]
        else:
            raise UserError(
                f"{image.path.name}: annotation {image.annotation_ids[i]} has no segmentation; "
                "a model with masks needs one for every object."
            )
    return masks


def _rectangle(box: ndarray, height: int, width: int) -> Tensor:
    left, top, right, bottom = np.rint(box).astype(int)
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def _fill(polygons: list[ndarray], scale: ndarray, height: int, width: int) -> Tensor:
    scaled = [(points(p).reshape(-1, 2) * scale).ravel().tolist() for p in polygons]
    parts = rle.frPyObjects(scaled, height, width)
    return torch.from_numpy(np.ascontiguousarray(rle.decode(rle.merge(parts))))


def _decode(found: dict[str, Any], height: int, width: int) -> Tensor:
    mask = torch.from_numpy(np.ascontiguousarray(rle.decode(found)))
    if mask.shape == (height, width):
        return mask
    return F.interpolate(mask[None, None].float(), (height, width), mode="area")[0, 0].ge(0.5).to(torch.uint8)
