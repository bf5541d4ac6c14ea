"""Mosaic: parts of four images in one canvas (YOLOv4, Bochkovskiy et al., 2020, section 3.3).

Smaller objects in other company, and four contexts in one step. The paper does not say how large the four are;
here each comes at half to all of its training size, as large as its quarter needs to be filled.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from libradet.data.loading.transforms import Sample
from libradet.data.loading.windows import Window

CENTER = (0.25, 0.75)
"""Where the four meet, as a fraction of the canvas."""

SCALE = (0.5, 1.0)
"""Size of an image in a mosaic, over its training size."""

GRAY = 114
"""Where an image does not reach, as in YOLO."""


def quarters(frame: tuple[int, int], chance: np.random.Generator) -> list[Window]:
    """Four windows around a random point of a canvas ``frame`` (height, width)."""
    height, width = frame
    y, x = round(height * chance.uniform(*CENTER)), round(width * chance.uniform(*CENTER))
    rows, columns = ((0, y), (y, height - y)), ((0, x), (x, width - x))
    return [Window(top, left, h, w) for top, h in rows for left, w in columns]


def tile_scale(height: int, width: int, quarter: Window, chance: np.random.Generator) -> float:
    """At which fraction of its training size (``height``, ``width``) an image comes into its quarter."""
    filling = max(quarter.height / height, quarter.width / width)
    return min(max(chance.uniform(*SCALE), filling), SCALE[1])


def corner(sample: Sample, quarter: Window) -> tuple[int, int]:
    """Top and left of an image in a mosaic: where it is smaller than its quarter, it touches the point in common."""
    height, width = sample.image.shape[1:]
    top = quarter.height - height if quarter.top == 0 else quarter.top
    left = quarter.width - width if quarter.left == 0 else quarter.left
    return top, left


def assemble(
    samples: Sequence[Sample], corners: Sequence[tuple[int, int]], frame: tuple[int, int], fill: int = GRAY
) -> Sample:
    """Samples side by side in one of ``frame`` (height, width), each with its top left corner there.

    Objects of the first come first, and all else that is said of a sample is the first one's.
    """
    image = torch.full((*frame, 3), fill, dtype=torch.uint8).permute(2, 0, 1)
    boxes: list[Tensor] = []
    masks = _empty_masks(samples, frame)
    start = 0
    for sample, (top, left) in zip(samples, corners, strict=True):
        place = slice(top, top + sample.image.shape[1]), slice(left, left + sample.image.shape[2])
        image[:, *place] = sample.image
        boxes.append(sample.boxes + torch.tensor([left, top, left, top]))
        end = start + len(sample.labels)
        if masks is not None and sample.masks is not None:
            masks[start:end, *place] = sample.masks
        start = end
    labels, crowd = (torch.cat([getattr(s, name) for s in samples]) for name in ("labels", "crowd"))
    return samples[0]._replace(image=image, boxes=torch.cat(boxes), labels=labels, crowd=crowd, masks=masks)


def _empty_masks(samples: Sequence[Sample], frame: tuple[int, int]) -> Tensor | None:
    if samples[0].masks is None:
        return None
    return torch.zeros(sum(len(sample.labels) for sample in samples), *frame, dtype=torch.uint8)
