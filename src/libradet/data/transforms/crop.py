"""Random crops of a sample, and which of its objects remain."""

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import BoundingBoxFormat

from libradet.data.transforms.sample import Sample, filter_instances, is_at_least_one_pixel
from libradet.geometry.tiles import Window

MIN_VISIBLE_SHARE = 0.1
"""An object of which a smaller share remains visible is dropped from the ground truth."""


def random_crop_box(height: int, width: int, max_size: tuple[int, int], rng: np.random.Generator) -> Window:
    """Draw a crop of at most ``max_size`` (height, width) at a random place of an image; all of it where it fits."""
    rows, columns = min(height, max_size[0]), min(width, max_size[1])
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    return Window(top, left, rows, columns)


def crop_sample(sample: Sample, crop: Window) -> tuple[Sample, Bool[Tensor, " G"]]:
    """Crop a sample without masks; also return which of its objects remain.

    Boxes are clipped to the crop. Those that keep less than MIN_VISIBLE_SHARE of their area, or have a side below one
    pixel, are dropped, as is common for random crops: the rest of such an object counts as background. Proposals are
    clipped likewise, and dropped only below a pixel.
    """
    boxes = _crop_boxes(sample.boxes, crop)
    keep = is_at_least_one_pixel(boxes) & (_areas(boxes) >= MIN_VISIBLE_SHARE * _areas(sample.boxes))
    proposals = None if sample.proposals is None else _crop_boxes(sample.proposals, crop)
    if proposals is not None:
        proposals = proposals[is_at_least_one_pixel(proposals)]
    cropped = sample._replace(image=F.crop(sample.image, *crop), boxes=boxes, proposals=proposals)
    return filter_instances(cropped, keep), keep


def _crop_boxes(boxes: Float[Tensor, "N 4"], crop: Window) -> Float[Tensor, "N 4"]:
    return F.crop_bounding_boxes(boxes, BoundingBoxFormat.XYXY, *crop)[0]


def _areas(boxes: Float[Tensor, "N 4"]) -> Float[Tensor, " N"]:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)
