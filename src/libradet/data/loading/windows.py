"""Looking at an image through a window: random crops, and which objects are still there."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import BoundingBoxFormat

from libradet.data.loading.transforms import Sample

MIN_SHARE = 0.1
"""An object of which a smaller share is left in view is no ground truth any more."""


class Window(NamedTuple):
    """Part of an image, in whole pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def part(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def scaled(height: int, width: int, factor: float) -> tuple[int, int]:
    """Sides times a factor, in whole pixels, at least one."""
    return max(1, round(height * factor)), max(1, round(width * factor))


def any_window(height: int, width: int, frame: tuple[int, int], chance: np.random.Generator) -> Window:
    """A window no larger than ``frame`` (height, width) at a random place of an image; all of it where it fits."""
    rows, columns = min(height, frame[0]), min(width, frame[1])
    top, left = int(chance.integers(height - rows + 1)), int(chance.integers(width - columns + 1))
    return Window(top, left, rows, columns)


def look_through(sample: Sample, window: Window) -> tuple[Sample, Bool[Tensor, " G"]]:
    """What is seen of a sample without masks, and which of its objects are left.

    Boxes are cut to the window. Those that keep less than MIN_SHARE of their area, or a side below one pixel, are
    dropped, as is usual for random crops: what is left of such an object counts as background. Proposals are cut
    likewise, and dropped only below a pixel.
    """
    boxes = _cut(sample.boxes, window)
    left = at_least_a_pixel(boxes) & (_areas(boxes) >= MIN_SHARE * _areas(sample.boxes))
    proposals = None if sample.proposals is None else _cut(sample.proposals, window)
    if proposals is not None:
        proposals = proposals[at_least_a_pixel(proposals)]
    seen = sample._replace(image=F.crop(sample.image, *window), boxes=boxes, proposals=proposals)
    return only(seen, left), left


def only(sample: Sample, rows: Bool[Tensor, " G"]) -> Sample:
    """The sample with some of its objects."""
    masks = None if sample.masks is None else sample.masks[rows]
    return sample._replace(boxes=sample.boxes[rows], labels=sample.labels[rows], crowd=sample.crowd[rows], masks=masks)


def drawn(sample: Sample) -> Sample:
    """The sample with the objects of which a pixel is in the image."""
    assert sample.masks is not None
    return only(sample, sample.masks.flatten(1).any(1).bool())


def _cut(boxes: Float[Tensor, "N 4"], window: Window) -> Float[Tensor, "N 4"]:
    return F.crop_bounding_boxes(boxes, BoundingBoxFormat.XYXY, *window)[0]


def _areas(boxes: Float[Tensor, "N 4"]) -> Float[Tensor, " N"]:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def at_least_a_pixel(boxes: Float[Tensor, "N 4"]) -> Bool[Tensor, " N"]:
    """Whether both sides are one pixel or more."""
    return ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
