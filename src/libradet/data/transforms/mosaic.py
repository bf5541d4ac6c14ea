"""Mosaic: parts of four images in one (YOLOv4, Bochkovskiy et al., 2020, section 3.3).

Objects are smaller and appear in other contexts, four of them in one step. The paper does not state the scale of the
four images; here each is resized to half to all of its training size, and at least as large as needed to fill its cell.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from libradet.data.transforms.sample import Sample
from libradet.geometry.tiles import Window

CENTER_RANGE = (0.25, 0.75)
"""Where the four cells meet, as a fraction of height and width."""

SCALE_RANGE = (0.5, 1.0)
"""Size of an image in a mosaic, over its training size."""

PAD_VALUE = 114
"""Gray where no image reaches, as in YOLO."""


def mosaic_cells(size: tuple[int, int], rng: np.random.Generator) -> list[Window]:
    """Draw the four cells around a random point of a mosaic of ``size`` (height, width)."""
    height, width = size
    y, x = round(height * rng.uniform(*CENTER_RANGE)), round(width * rng.uniform(*CENTER_RANGE))
    rows, columns = ((0, y), (y, height - y)), ((0, x), (x, width - x))
    return [Window(top, left, h, w) for top, h in rows for left, w in columns]


def sample_tile_scale(height: int, width: int, cell: Window, rng: np.random.Generator) -> float:
    """Draw the fraction of its training size (``height``, ``width``) to which an image is resized for its cell."""
    filling = max(cell.height / height, cell.width / width)
    return min(max(rng.uniform(*SCALE_RANGE), filling), SCALE_RANGE[1])


def paste_offset(sample: Sample, cell: Window) -> tuple[int, int]:
    """Return top and left of an image in a mosaic: where it is smaller than its cell, it touches the common point."""
    height, width = sample.image.shape[1:]
    top = cell.height - height if cell.top == 0 else cell.top
    left = cell.width - width if cell.left == 0 else cell.left
    return top, left


def build_mosaic(samples: Sequence[Sample], offsets: Sequence[tuple[int, int]], size: tuple[int, int]) -> Sample:
    """Combine samples in an image of ``size`` (height, width), each with its top left corner at its offset.

    Objects keep the order of the samples; scale, index and proposals are the first sample's.
    """
    image = torch.full((*size, 3), PAD_VALUE, dtype=torch.uint8).permute(2, 0, 1)
    boxes: list[Tensor] = []
    masks = _empty_masks(samples, size)
    start = 0
    for sample, (top, left) in zip(samples, offsets, strict=True):
        region = slice(top, top + sample.image.shape[1]), slice(left, left + sample.image.shape[2])
        image[:, *region] = sample.image
        boxes.append(sample.boxes + torch.tensor([left, top, left, top]))
        end = start + len(sample.labels)
        if masks is not None and sample.masks is not None:
            masks[start:end, *region] = sample.masks
        start = end
    labels, crowd = torch.cat([s.labels for s in samples]), torch.cat([s.crowd for s in samples])
    return samples[0]._replace(image=image, boxes=torch.cat(boxes), labels=labels, crowd=crowd, masks=masks)


def _empty_masks(samples: Sequence[Sample], size: tuple[int, int]) -> Tensor | None:
    if samples[0].masks is None:
        return None
    return torch.zeros(sum(len(sample.labels) for sample in samples), *size, dtype=torch.uint8)
