"""An exported file as a finder: what predicts and measures does not see what it runs on."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from libradet.data.batch import Batch
from libradet.data.loading.transforms import Size
from libradet.export.description import Description
from libradet.inference.detections import Detections
from libradet.inference.predictor import predict

if TYPE_CHECKING:
    import supervision

Run = Callable[[Sequence[ndarray]], list[ndarray]]
"""From the inputs that a description names, in order, to its outputs."""


class Exported:
    """An exported detector, opened by :func:`libradet.load_model`.

    Images of one size go through it together; it computes on the CPU.

    Attributes:
        description: what the file says of itself.
    """

    def __init__(self, description: Description, run: Run) -> None:
        self.description, self._run = description, run

    @property
    def name(self) -> str:
        """The zoo entry."""
        return self.description.model

    @property
    def class_names(self) -> Sequence[str]:
        """Of labels 0..C-1."""
        return self.description.class_names

    @property
    def category_ids(self) -> Sequence[int]:
        """The training dataset's own ids of labels 0..C-1."""
        return self.description.category_ids

    @property
    def image_size(self) -> Size:
        """To which images are to be resized before; "original" if the file does that."""
        return "original" if self.description.resizes else self.description.size

    @property
    def divisor(self) -> int:
        """Of the sides of a canvas: the file makes its own."""
        return 1

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return torch.device("cpu")

    @property
    def proposes(self) -> bool:
        """Whether its detections are proposals."""
        return self.description.proposes

    @property
    def gives_masks(self) -> bool:
        """Whether each detection has a mask."""
        return self.description.masks

    @property
    def proposals_wanted(self) -> int:
        """Boxes of an image that it looks at, best first; 0 if it looks for objects itself."""
        return self.description.proposals

    def predict(
        self, images, threshold: float = 0.5, size: Size | None = None, batch_size: int = 1, proposals=None
    ) -> "supervision.Detections | list[supervision.Detections] | Iterator[supervision.Detections]":
        """As :meth:`libradet.models.detector.Detector.predict`."""
        return predict(self, images, threshold, size, batch_size, proposals)

    def __call__(self, batch: Batch) -> Detections:
        """Detections in pixels of the batch's images."""
        order, parts = [], []
        for rows, arrays in self._same_sizes(batch):
            order.append(rows)
            parts.append([torch.from_numpy(np.array(a)) for a in self._run(arrays)])
        back = torch.cat(order).argsort()
        return Detections(*(torch.cat(column)[back] for column in zip(*parts, strict=True)))

    def _same_sizes(self, batch: Batch) -> Iterator[tuple[Tensor, list[ndarray]]]:
        """Rows of images of one size, and what is known of them."""
        for height, width in batch.sizes.unique(dim=0).tolist():
            rows = (batch.sizes == torch.tensor([height, width])).all(1).nonzero().squeeze(1)
            arrays = [batch.images[rows, :, :height, :width].permute(0, 2, 3, 1)]
            if self.proposals_wanted:
                assert batch.proposals is not None
                arrays.append(batch.proposals[rows])
            yield rows, [np.ascontiguousarray(a.numpy()) for a in arrays]
