"""Segmentations drawn as masks."""

from typing import Any

import numpy as np
import torch
from hotcoco import mask as rle
from jaxtyping import UInt8
from numpy import ndarray
from torch import Tensor
from torch.nn import functional as F

from libradet.data.records import Picture
from libradet.data.segmentations import points
from libradet.errors import UserError


def decode_masks(picture: Picture, height: int, width: int) -> UInt8[Tensor, "G {height} {width}"]:
    """Masks of a picture's objects, 0 or 1, with the picture resized to ``height`` and ``width``.

    A crowd region without segmentation is its box.

    Raises:
        UserError: an object has no segmentation.
    """
    masks = torch.zeros(len(picture.labels), height, width, dtype=torch.uint8)
    scale = np.array([width / picture.width, height / picture.height])
    for i, found in enumerate(picture.segmentations or [None] * len(picture.labels)):
        if isinstance(found, list):
            masks[i] = _fill(found, scale, height, width)
        elif isinstance(found, dict):
            masks[i] = _decode(found, height, width)
        elif picture.crowd[i]:
            left, top, right, bottom = np.rint(picture.boxes[i] * np.tile(scale, 2)).astype(int)
            masks[i, top:bottom, left:right] = 1
        else:
            raise UserError(
                f"{picture.path.name}: annotation {picture.annotation_ids[i]} has no segmentation; "
                "a model with masks needs one for every object."
            )
    return masks


def _fill(polygons: list[ndarray], scale: ndarray, height: int, width: int) -> Tensor:
    scaled = [(points(p).reshape(-1, 2) * scale).ravel().tolist() for p in polygons]
    parts = rle.frPyObjects(scaled, height, width)
    return torch.from_numpy(np.ascontiguousarray(rle.decode(rle.merge(parts))))


def _decode(found: dict[str, Any], height: int, width: int) -> Tensor:
    mask = torch.from_numpy(np.ascontiguousarray(rle.decode(found)))
    if mask.shape == (height, width):
        return mask
    return F.interpolate(mask[None, None].float(), (height, width), mode="area")[0, 0].ge(0.5).to(torch.uint8)
