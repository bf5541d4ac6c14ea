"""Data structures that models, inference and evaluation share."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor


class Detections(NamedTuple):
    """Detections of a batch: a fixed number D per image, sorted by descending score and padded where not ``valid``.

    Attributes:
        boxes: xyxy in pixels of the resized image, inside ``Batch.sizes``.
        scores: 0..1; 0 where not valid.
        labels: 0..C-1; 0 where not valid.
        valid: False marks padding.
        masks: probabilities 0..1 on an M x M grid over each box; None if the detector has no masks.
    """

    boxes: Float[Tensor, "B D 4"]
    scores: Float[Tensor, "B D"]
    labels: Int[Tensor, "B D"]
    valid: Bool[Tensor, "B D"]
    masks: Float[Tensor, "B D M M"] | None = None
