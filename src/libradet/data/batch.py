"""Batches of images and ground truth."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int, Num
from torch import Tensor


class Batch(NamedTuple):
    """Images and ground truth, padded to common sizes.

    Attributes:
        images: RGB, 0-255, uint8 or float, padded with zeros right and below to a multiple of the
            coarsest stride.
        sizes: height and width in pixels of each image before padding.
        boxes: ground truths, xyxy in pixels of the (resized) image; zeros where padded.
        labels: 0..C-1; -1 marks padding. An image without objects is a row of -1.
        crowd: regions that hold many objects: neither targets nor negatives.
        masks: instance masks of the ground truths at the size of ``images``, 0 or 1; or packed, eight
            pixels of a row to a byte (``geometry.masks.pack_masks``), as data loaders make them: sixty objects at
            800 x 1344 pixels are then 8 MB instead of 64.
        index: row of each image in its dataset.
        scales: resized size over original size, (x, y), to map detections back to the file's pixels.
        proposals: precomputed proposals (Fast R-CNN), xyxy in pixels of the resized image, zeros
            where padded.
    """

    images: Num[Tensor, "B 3 H W"]
    sizes: Int[Tensor, "B 2"]
    boxes: Float[Tensor, "B G 4"]
    labels: Int[Tensor, "B G"]
    crowd: Bool[Tensor, "B G"]
    masks: Num[Tensor, "B G H _"] | None = None
    index: Int[Tensor, " B"] | None = None
    scales: Float[Tensor, "B 2"] | None = None
    proposals: Float[Tensor, "B P 4"] | None = None

    def to(self, device, non_blocking: bool = False) -> "Batch":
        """Return the batch with every tensor on ``device``."""
        moved = {k: t.to(device, non_blocking=non_blocking) for k, t in self._asdict().items() if t is not None}
        return Batch(**moved)
