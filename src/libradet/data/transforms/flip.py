"""Horizontal flip."""

from jaxtyping import Float
from torch import Tensor

from libradet.data.transforms.sample import Sample


def hflip(sample: Sample) -> Sample:
    """Return the sample flipped left to right."""
    width = sample.image.shape[2]
    masks = None if sample.masks is None else sample.masks.flip(2)
    proposals = None if sample.proposals is None else _hflip_boxes(sample.proposals, width)
    return sample._replace(
        image=sample.image.flip(2), boxes=_hflip_boxes(sample.boxes, width), masks=masks, proposals=proposals
    )


def _hflip_boxes(boxes: Float[Tensor, "N 4"], width: int) -> Float[Tensor, "N 4"]:
    flipped = boxes.clone()
    flipped[:, [0, 2]] = width - boxes[:, [2, 0]]
    return flipped
