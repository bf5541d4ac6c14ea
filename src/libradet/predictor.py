"""The interface that prediction, evaluation and export expect of a model."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

import torch

from libradet.data.batch import Batch
from libradet.data.bit_depth import DEFAULT_BIT_DEPTH
from libradet.data.transforms.resize import Size, check_size
from libradet.errors import UserError
from libradet.structures import Detections


@runtime_checkable
class Predictor(Protocol):
    """A model that detects objects in a batch: a detector, an exported model, or one with test-time augmentation.

    Attributes:
        name: architecture, for messages.
        class_names: names of labels 0..C-1.
        category_ids: category ids of labels 0..C-1 in the training dataset.
        image_size: default size to resize images to; "original" if the model resizes them itself.
        size_divisible: padded sides are multiples of it.
        device: device that the model runs on.
        is_proposal_model: whether its detections are proposals, to be kept at any score.
        has_masks: whether each detection has a mask.
        num_proposals: maximum number of input proposals per image, best first; 0 if it needs none.
    """

    @property
    def name(self) -> str: ...
    @property
    def class_names(self) -> Sequence[str]: ...
    @property
    def category_ids(self) -> Sequence[int | str]: ...
    @property
    def image_size(self) -> Size: ...
    @property
    def size_divisible(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def is_proposal_model(self) -> bool: ...
    @property
    def has_masks(self) -> bool: ...
    @property
    def num_proposals(self) -> int: ...

    def __call__(self, batch: Batch) -> Detections | Any:
        """Return the detections of a batch; a detector in training mode returns losses."""
        ...


def bit_depth_of(model: Predictor) -> int:
    """Return the bit depth of the values in 16-bit files that a model expects: its ``bit_depth``, 16 without one."""
    return getattr(model, "bit_depth", DEFAULT_BIT_DEPTH)


def check_batch_size(batch_size: int) -> None:
    """Raise UserError unless the number of images is a whole number above 0."""
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: it must be a whole number, at least 1")


def resolve_size(model: Predictor, size: Size | None) -> Size:
    """Return the size to resize images to: ``size``, or that of the model if None.

    Raises:
        UserError: an invalid size, or one for a model that resizes images itself.
    """
    if model.image_size == "original" and size not in (None, "original"):
        raise UserError(
            f"this {model.name} resizes images itself: leave out the size, or export the model with that size"
        )
    if size is None:
        return model.image_size
    check_size(size)
    return size
