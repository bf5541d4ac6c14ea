"""What leaves a detector."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor


class Detections(NamedTuple):
    """A fixed number D of detections per image, best first; what is not ``valid`` is filling.

    Attributes:
        boxes: xyxy in pixels of the resized image, inside ``Batch.sizes``.
        scores: 0..1; 0 where not valid.
        labels: 0..C-1; 0 where not valid.
        valid: False marks slots that hold no detection.
        masks: for each detection how likely each cell of a grid over its box belongs to it, 0..1; None if
            the detector gives boxes only.
    """

    boxes: Float[Tensor, "B D 4"]
    scores: Float[Tensor, "B D"]
    labels: Int[Tensor, "B D"]
    valid: Bool[Tensor, "B D"]
    masks: Float[Tensor, "B D M M"] | None = None
