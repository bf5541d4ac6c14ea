"""Rotation by right angles."""

import torch
from jaxtyping import Float
from torch import Tensor

from libradet.data.transforms.sample import Sample


def rotate90(sample: Sample, turns: int) -> Sample:
    """Return the sample rotated counterclockwise by ``turns`` right angles.

    Its height and width, and the two entries of ``scale``, are exchanged by an odd number of turns.
    """
    for _ in range(turns % 4):
        sample = _rotate_once(sample)
    return sample


def _rotate_once(sample: Sample) -> Sample:
    width = sample.image.shape[2]
    return sample._replace(
        image=sample.image.rot90(1, (1, 2)),
        boxes=_rotate_boxes(sample.boxes, width),
        masks=None if sample.masks is None else sample.masks.rot90(1, (1, 2)),
        proposals=None if sample.proposals is None else _rotate_boxes(sample.proposals, width),
        scale=(sample.scale[1], sample.scale[0]),
    )


def _rotate_boxes(boxes: Float[Tensor, "N 4"], width: int) -> Float[Tensor, "N 4"]:
    left, top, right, bottom = boxes.unbind(1)
    return torch.stack([top, width - right, bottom, width - left], 1)
