"""What images are looked at with."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from libradet.data.batch import Batch
from libradet.data.loading.transforms import Size
from libradet.errors import UserError
from libradet.inference.detections import Detections


@runtime_checkable
class Finder(Protocol):
    """What finds objects in a batch: a detector, or anything else that answers the same questions.

    Attributes:
        name: of the kind of detector, for messages.
        class_names: of labels 0..C-1.
        category_ids: the training dataset's own ids of labels 0..C-1.
        image_size: to which images are resized unless somebody says otherwise; "original" if it resizes them itself.
        divisor: sides of a canvas are multiples of it.
        device: where it computes.
        proposes: its detections are proposals, whatever they score.
        gives_masks: each detection has one.
        proposals_wanted: boxes that it looks at in an image, best first; 0 if it looks for objects itself.
    """

    @property
    def name(self) -> str: ...
    @property
    def class_names(self) -> Sequence[str]: ...
    @property
    def category_ids(self) -> Sequence[int]: ...
    @property
    def image_size(self) -> Size: ...
    @property
    def divisor(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def proposes(self) -> bool: ...
    @property
    def gives_masks(self) -> bool: ...
    @property
    def proposals_wanted(self) -> int: ...

    def __call__(self, batch: Batch) -> Detections | Any:
        """Detections of a batch; a detector that is in training mode gives losses."""
        ...


def size_for(finder: Finder, asked: Size | None) -> Size:
    """To what images are resized for a finder. Raises UserError if it does that itself, and one was asked for."""
    if finder.image_size == "original" and asked not in (None, "original"):
        raise UserError(f"this {finder.name} resizes images itself: leave the size out, or export the model with it")
    return asked or finder.image_size
