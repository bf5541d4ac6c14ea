"""One image with its annotations, before it is batched."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor


class Sample(NamedTuple):
    """An image ready to be batched; ``scale`` is resized size over original size, (x, y)."""

    image: UInt8[Tensor, "3 H W"]
    boxes: Float[Tensor, "G 4"]
    labels: Int[Tensor, " G"]
    crowd: Bool[Tensor, " G"]
    scale: tuple[float, float]
    index: int
    masks: UInt8[Tensor, "G H W"] | None = None
    proposals: Float[Tensor, "P 4"] | None = None


def filter_instances(sample: Sample, keep: Bool[Tensor, " G"]) -> Sample:
    """Return the sample with the objects to keep."""
    masks = None if sample.masks is None else sample.masks[keep]
    return sample._replace(boxes=sample.boxes[keep], labels=sample.labels[keep], crowd=sample.crowd[keep], masks=masks)


def remove_empty_masks(sample: Sample) -> Sample:
    """Return the sample with the objects whose mask has at least one pixel."""
    assert sample.masks is not None
    return filter_instances(sample, sample.masks.flatten(1).any(1).bool())


def is_at_least_one_pixel(boxes: Float[Tensor, "N 4"]) -> Bool[Tensor, " N"]:
    """Return whether both sides of each box are at least one pixel."""
    return ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
