"""Exported detectors as predictors, interchangeable with a detector for prediction and evaluation."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from libradet.data.batch import Batch
from libradet.data.transforms.resize import Size
from libradet.errors import UserError
from libradet.export.metadata import ExportMetadata, RunFunction
from libradet.geometry.tiles import TilesLike
from libradet.inference.predict import predict
from libradet.inference.tiles import TileMerge, make_tiling
from libradet.structures import Detections
from libradet.utils.arguments import check_arguments
from libradet.utils.ranges import PositiveInt, UnitInterval

if TYPE_CHECKING:
    import supervision


class ExportedModel:
    """An exported detector, opened by :func:`libradet.load_model`; a ``Predictor`` that runs on the CPU.

    Images of equal size run as one batch.

    Args:
        metadata: metadata of the file.
        run: function that runs the graph.

    Attributes:
        metadata: metadata of the file.
        name: name of the detector in the zoo.
        class_names: names of labels 0..C-1.
        category_ids: the training dataset's ids of labels 0..C-1.
        image_size: size to which images have to be resized before; "original" if the graph resizes them.
        size_divisible: 1, because the graph pads images itself.
        bit_depth: of the values in 16-bit files, which are read as in training.
        device: the CPU.
        is_proposal_model: whether the detections are proposals.
        has_masks: whether detections have masks.
        num_proposals: number of input proposals used per image, best first; 0 if the detector has its own RPN.
    """

    def __init__(self, metadata: ExportMetadata, run: RunFunction) -> None:
        self.metadata, self._run = metadata, run
        self.name = metadata.model
        self.class_names = metadata.class_names
        self.category_ids = metadata.category_ids
        self.image_size: Size = "original" if metadata.embed_preprocess else metadata.image_size
        self.size_divisible = 1
        self.bit_depth = metadata.bit_depth
        self.device = torch.device("cpu")
        self.is_proposal_model = metadata.is_proposal_model
        self.has_masks = metadata.has_masks
        self.num_proposals = metadata.num_proposals

    @check_arguments
    def predict(
        self,
        images,
        score_thresh: UnitInterval = 0.5,
        size: Size | None = None,
        batch_size: PositiveInt = 1,
        proposals=None,
        *,
        tiles: TilesLike | None = None,
        tile_merge: TileMerge = "nms",
    ) -> "supervision.Detections | list[supervision.Detections] | Iterator[supervision.Detections]":
        """Return the detections of one image or several; see :meth:`libradet.models.detector.Detector.predict`."""
        tiling = make_tiling(self, tiles, tile_merge)
        return predict(self, images, score_thresh, size, batch_size, proposals, tiling)

    def __call__(self, batch: Batch) -> Detections:
        """Return the detections of a batch, in pixels of its images."""
        batch_rows, outputs = [], []
        for rows, arrays in self._group_by_size(batch):
            batch_rows.append(rows)
            run = self._run if self.metadata.static is None else self._run_static
            outputs.append([torch.from_numpy(np.array(a)) for a in run(arrays)])
        order = torch.cat(batch_rows).argsort()
        return Detections(*(torch.cat(parts)[order] for parts in zip(*outputs, strict=True)))

    def _group_by_size(self, batch: Batch) -> Iterator[tuple[Tensor, list[ndarray]]]:
        """Yield, for each image size, the rows of the batch and the graph's inputs."""
        for height, width in batch.sizes.unique(dim=0).tolist():
            rows = (batch.sizes == torch.tensor([height, width])).all(1).nonzero().squeeze(1)
            arrays = [batch.images[rows, :, :height, :width].permute(0, 2, 3, 1)]
            if self.num_proposals:
                assert batch.proposals is not None
                arrays.append(batch.proposals[rows])
            yield rows, [np.ascontiguousarray(a.numpy()) for a in arrays]

    def _run_static(self, arrays: Sequence[ndarray]) -> list[ndarray]:
        """Run a graph of static shape on any number of images, in batches that are filled up with zeros."""
        assert self.metadata.static is not None
        batch_size, *size = self.metadata.static
        images = arrays[0]
        if list(images.shape[1:3]) != size:
            raise UserError(
                f"this exported {self.name} is for images of {size[0]} x {size[1]} pixels (height x width), and one "
                f"has {images.shape[1]} x {images.shape[2]}; export it without --static for images of any size"
            )
        shapes = [images.shape[1:], (self.num_proposals, 4)]
        results = []
        for start in range(0, len(images), batch_size):
            rows = [a[start : start + batch_size] for a in arrays]
            filled = [np.zeros((batch_size, *shape), a.dtype) for a, shape in zip(rows, shapes, strict=False)]
            for target, source in zip(filled, rows, strict=True):
                target[: len(source), : source.shape[1]] = source
            results.append([output[: len(rows[0])] for output in self._run(filled)])
        return [np.concatenate(parts) for parts in zip(*results, strict=True)]
