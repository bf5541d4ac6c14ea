"""Evaluation of a detector's output on a dataset, batch by batch and over all processes."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch.distributed as dist
from jaxtyping import Float32, Float64, Int64
from numpy import ndarray
from torchmetrics import Metric

from libradet.data.batch import Batch
from libradet.data.records import Dataset
from libradet.data.segmentations import encode_masks, rle_to_json
from libradet.evaluation.classes import match_classes
from libradet.evaluation.coco import Metrics, ResultRows, coco_metrics, prefix_mask_metrics, rows_to_coco_results
from libradet.evaluation.ground_truth import ground_truth_from_dataset, number_images
from libradet.geometry.masks import paste_masks
from libradet.predictor import Predictor
from libradet.structures import Detections
from libradet.utils.distributed import is_distributed, world_size

MIN_DETECTION_LIMIT = 100
"""Detections per image that COCO metrics are defined for; detectors with more also have AR300 and AR1000."""


class CocoEvaluator(Metric):
    """COCO metrics of the images that pass through :meth:`update`, as a torchmetrics class.

    Detections are rescaled to the pixels of the files and mapped to the dataset's image and category ids. Images that
    were not processed are not evaluated; an image that was processed twice is counted once.

    Args:
        dataset: the dataset that ``Batch.index`` refers to.
        class_map: label in the dataset for each label of the detector, -1 for a class to ignore; None if both have
            the same classes.
        class_agnostic: ignore classes (proposals).
        masks: evaluate masks, too: every object of ``dataset`` needs a segmentation, every detection a mask.
            They are stored as RLE, a few hundred bytes each.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        class_map: Sequence[int] | None = None,
        class_agnostic: bool = False,
        masks: bool = False,
    ) -> None:
        # RLE is not a tensor, so torchmetrics cannot synchronize it; gather does.
        super().__init__(sync_on_compute=False)
        self.dataset = dataset
        self.class_agnostic = class_agnostic
        self.masks = masks
        self._class_map = None if class_map is None else np.asarray(class_map, dtype=np.int64)
        self._image_numbers = number_images(dataset)
        self._rows: dict[int, ResultRows] = {}
        self._segmentations: dict[int, list[dict[str, Any]]] = {}
        self._max_detections = MIN_DETECTION_LIMIT

    def update(self, detections: Detections, batch: Batch) -> None:
        """Add the detections of one batch, which needs ``index`` and ``scales``."""
        assert batch.index is not None, "Batch.index is required to assign detections to images"
        assert batch.scales is not None, "Batch.scales is required to rescale detections to the files' pixels"
        # Double precision from here on, since rounding must not move a box across an IoU threshold.
        boxes, scores, scales = (t.cpu().double().numpy() for t in (detections.boxes, detections.scores, batch.scales))
        labels, valid, indices = (t.cpu().numpy() for t in (detections.labels, detections.valid, batch.index))
        if self._class_map is not None:
            labels = self._class_map[labels]
            valid = valid & (labels >= 0)
        self._max_detections = max(self._max_detections, valid.shape[1])
        masks = detections.masks.cpu().float().numpy() if self.masks and detections.masks is not None else None
        boxes = boxes / np.tile(scales, 2)[:, None]
        rows = self._to_rows(indices, boxes, scores, labels)
        for i, index in enumerate(indices.tolist()):
            if index in self._rows:
                continue
            keep = valid[i]
            self._rows[index] = rows[i, keep]
            if masks is not None:
                self._segmentations[index] = self._to_segmentations(index, boxes[i, keep], masks[i, keep])

    def reset(self) -> None:
        """Remove all images."""
        super().reset()
        self._rows, self._segmentations, self._max_detections = {}, {}, MIN_DETECTION_LIMIT

    def gather(self) -> None:
        """Collect the detections of all processes in each of them; a collective operation."""
        parts = all_gather_objects((self._max_detections, self._rows, self._segmentations))
        self._max_detections = max(limit for limit, _, _ in parts)
        self._rows = _merge([rows for _, rows, _ in parts])
        self._segmentations = _merge([segmentations for _, _, segmentations in parts])

    def compute(self) -> Metrics:
        """Return the metrics (see :func:`libradet.evaluation.coco.coco_metrics`); a collective operation.

        The names of mask metrics start with ``mask_``. The result is the same in all processes.
        """
        self.gather()
        truth = ground_truth_from_dataset(self.dataset, self.masks)
        options: dict[str, Any] = {
            "max_detections": self._max_detections,
            "class_agnostic": self.class_agnostic,
            "image_ids": [self._image_numbers[index] for index in self._rows],
        }
        metrics = coco_metrics(truth, self.rows(), **options)
        if not self.masks:
            return metrics
        # With a bbox, COCOeval would use the area of the box in place of that of the mask.
        numbered = self._add_segmentations(rows_to_coco_results(self.rows()))
        results = [{k: v for k, v in result.items() if k != "bbox"} for result in numbered]
        return metrics | prefix_mask_metrics(coco_metrics(truth, results, iou_type="segm", **options))

    def rows(self) -> ResultRows:
        """Return the detections so far: image number, x, y, width, height (pixels of the file), score, label + 1.

        Images are numbered as in :func:`libradet.evaluation.ground_truth.ground_truth_from_dataset`.
        """
        return np.concatenate([np.zeros((0, 7)), *self._rows.values()])

    def results(self) -> list[dict[str, Any]]:
        """Return the detections so far as COCO results; those of all processes after :meth:`compute` or :meth:`gather`.

        Ids are those of the dataset. With masks, each result has a ``segmentation`` (RLE) and a ``bbox``.
        """
        image_ids = {number: p.id for number, p in zip(self._image_numbers, self.dataset.images, strict=True)}
        return self._add_segmentations(rows_to_coco_results(self.rows(), image_ids, self.dataset.category_ids))

    def _add_segmentations(self, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for result, segmentation in zip(results, chain.from_iterable(self._segmentations.values()), strict=self.masks):
            result["segmentation"] = rle_to_json(segmentation)
        return results

    def _to_rows(
        self,
        indices: Int64[ndarray, " B"],
        boxes: Float64[ndarray, "B D 4"],
        scores: Float64[ndarray, "B D"],
        labels: Int64[ndarray, "B D"],
    ) -> Float64[ndarray, "B D 7"]:
        images = [self.dataset.images[index] for index in indices.tolist()]
        rows = np.empty((*labels.shape, 7))
        rows[..., 0] = np.array([self._image_numbers[index] for index in indices.tolist()])[:, None]
        limits = np.array([[image.width, image.height] * 2 for image in images])
        np.clip(boxes, 0, limits[:, None], out=rows[..., 1:5])
        rows[..., 3:5] -= rows[..., 1:3]
        rows[..., 5] = scores
        rows[..., 6] = labels + 1
        return rows

    def _to_segmentations(
        self, index: int, boxes: Float64[ndarray, "D 4"], masks: Float32[ndarray, "D M M"]
    ) -> list[dict[str, Any]]:
        size = self.dataset.images[index].height, self.dataset.images[index].width
        return encode_masks(paste_masks(masks, boxes, *size), *size)


def build_evaluator(model: Predictor, dataset: Dataset, masks: bool | None = None) -> tuple[CocoEvaluator, list[str]]:
    """Return an evaluator of ``model`` on ``dataset``, and messages on classes that only one of them has.

    Args:
        masks: evaluate masks, too; None if the model has masks.

    Raises:
        UserError: model and dataset have no class in common.
    """
    class_map, notes = [0], []
    if not model.is_proposal_model:
        class_map, notes = match_classes(model.class_names, dataset.class_names)
    evaluator = CocoEvaluator(
        dataset,
        class_map=class_map,
        class_agnostic=model.is_proposal_model,
        masks=model.has_masks if masks is None else masks,
    )
    return evaluator, notes


def all_gather_objects(value: Any) -> list[Any]:
    """Return the values of all processes by rank; ``[value]`` in a single process."""
    if not is_distributed():
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def _merge(parts: list[dict[int, Any]]) -> dict[int, Any]:
    """Return the images of all processes in the order of the dataset; the first process with an image is used."""
    merged: dict[int, Any] = {}
    for part in parts:
        merged = part | merged
    return dict(sorted(merged.items()))
