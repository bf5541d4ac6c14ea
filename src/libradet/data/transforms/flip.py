"""Horizontal and vertical flip."""

from jaxtyping import Float
from torch import Tensor

from libradet.data.transforms.sample import Sample

X, Y = 0, 1


def hflip(sample: Sample) -> Sample:
    """Return the sample flipped left to right."""
    return _flip(sample, X)


def vflip(sample: Sample) -> Sample:
    """Return the sample flipped top to bottom."""
    return _flip(sample, Y)


def _flip(sample: Sample, axis: int) -> Sample:
    dim = 2 - axis
    size = sample.image.shape[dim]
    masks = None if sample.masks is None else sample.masks.flip(dim)
    proposals = None if sample.proposals is None else _flip_boxes(sample.proposals, axis, size)
    boxes = _flip_boxes(sample.boxes, axis, size)
    return sample._replace(image=sample.image.flip(dim), boxes=boxes, masks=masks, proposals=proposals)


def _flip_boxes(boxes: Float[Tensor, "N 4"], axis: int, size: int) -> Float[Tensor, "N 4"]:
    flipped = boxes.clone()
    flipped[:, [axis, axis + 2]] = size - boxes[:, [axis + 2, axis]]
    return flipped
