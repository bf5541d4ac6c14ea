"""Collects a detector's output, batch by batch and process by process, and measures it."""

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
from libradet.data.segmentations import encode_masks, plain_rle
from libradet.evaluation.classes import match_classes
from libradet.evaluation.coco_metrics import Metrics, ResultRows, coco_metrics, mask_metrics, to_results
from libradet.evaluation.ground_truth import truth_of
from libradet.geometry.masks import paste_masks
from libradet.inference.detections import Detections
from libradet.models.detector import Detector


class CocoEvaluator(Metric):
    """COCO's numbers for the images that pass through :meth:`update`; a metric as torchmetrics has them.

    Detections are brought back to the pixels of the files and to the dataset's own image and category
    ids. Images that were never seen do not count; an image that was seen twice counts once.

    Args:
        dataset: where the images come from; ``Batch.index`` counts its rows.
        class_map: the dataset's label for each label of the detector, -1 for a class to leave out; None
            if both have the same classes.
        class_agnostic: the detector finds objects without naming them (proposals).
        masks: measure masks, too; every object of ``dataset`` has a segmentation, every detection a mask.
            They are kept as run lengths, some hundred bytes each.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        class_map: Sequence[int] | None = None,
        class_agnostic: bool = False,
        masks: bool = False,
    ) -> None:
        # Run lengths are no tensors, so what processes share is shared in gather.
        super().__init__(sync_on_compute=False)
        self.dataset = dataset
        self.class_agnostic = class_agnostic
        self.masks = masks
        self._class_map = None if class_map is None else np.asarray(class_map, dtype=np.int64)
        self._category_ids = np.asarray(dataset.category_ids, dtype=np.int64)
        self._rows: dict[int, ResultRows] = {}
        self._segmentations: dict[int, list[dict[str, Any]]] = {}
        self._max_detections = 100

    def update(self, detections: Detections, batch: Batch) -> None:
        """Take in the detections of one batch, whose ``index`` and ``scales`` say what they were found in."""
        assert batch.index is not None, "Batch.index is missing: a batch to be measured knows its images"
        assert batch.scales is not None, "Batch.scales is missing: a batch to be measured knows its files' sizes"
        # Double precision from here on: rounding may not push a box over an IoU threshold.
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
        """Forget all images."""
        super().reset()
        self._rows, self._segmentations, self._max_detections = {}, {}, 100

    def gather(self) -> None:
        """Share what every process found; afterwards all know the same. All processes have to call it."""
        parts = gather_objects((self._max_detections, self._rows, self._segmentations))
        self._max_detections = max(limit for limit, _, _ in parts)
        self._rows = _merge([rows for _, rows, _ in parts])
        self._segmentations = _merge([segmentations for _, _, segmentations in parts])

    def compute(self) -> Metrics:
        """The numbers (see :func:`coco_metrics`), the same on every process. All processes have to call it.

        Those of masks are added with ``mask_`` before their names.
        """
        self.gather()
        truth, seen = truth_of(self.dataset, self.masks), [self.dataset.images[index].id for index in self._rows]
        limit, agnostic = self._max_detections, self.class_agnostic
        metrics = coco_metrics(truth, self.rows(), max_detections=limit, class_agnostic=agnostic, image_ids=seen)
        if not self.masks:
            return metrics
        # Without their boxes, since COCO's tools would take an object to be as large as its box.
        found = [{k: v for k, v in result.items() if k != "bbox"} for result in self.results()]
        return metrics | mask_metrics(
            coco_metrics(truth, found, iou_type="segm", max_detections=limit, class_agnostic=agnostic, image_ids=seen)
        )

    def rows(self) -> ResultRows:
        """What was found so far: image id, x, y, width, height (pixels of the file), score, category id."""
        return np.concatenate([np.zeros((0, 7)), *self._rows.values()])

    def results(self) -> list[dict[str, Any]]:
        """What was found so far, as COCO results; over all processes after :meth:`compute` or :meth:`gather`.

        With masks, each has a ``segmentation`` (RLE) beside its ``bbox``.
        """
        results = to_results(self.rows())
        for result, segmentation in zip(results, chain.from_iterable(self._segmentations.values()), strict=self.masks):
            result["segmentation"] = plain_rle(segmentation)
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
        rows[..., 0] = np.array([image.id for image in images])[:, None]
        limits = np.array([[image.width, image.height] * 2 for image in images])
        np.clip(boxes, 0, limits[:, None], out=rows[..., 1:5])
        rows[..., 3:5] -= rows[..., 1:3]
        rows[..., 5] = scores
        rows[..., 6] = self._category_ids[labels]
        return rows

    def _to_segmentations(
        self, index: int, boxes: Float64[ndarray, "D 4"], masks: Float32[ndarray, "D M M"]
    ) -> list[dict[str, Any]]:
        size = self.dataset.images[index].height, self.dataset.images[index].width
        return encode_masks(paste_masks(masks, boxes, *size), *size)


def evaluator_of(model: Detector, dataset: Dataset, masks: bool | None = None) -> tuple[CocoEvaluator, list[str]]:
    """What measures ``model`` on ``dataset``, and sentences on classes that only one of them has.

    Args:
        masks: measure masks, too; if the model gives some, if None.

    Raises:
        UserError: model and dataset have no class in common.
    """
    agnostic = model.config.proposes
    classes = None if agnostic else match_classes(model.class_names, dataset.class_names)
    evaluator = CocoEvaluator(
        dataset,
        class_map=[0] if classes is None else classes.labels,
        class_agnostic=agnostic,
        masks=model.config.mask is not None if masks is None else masks,
    )
    return evaluator, classes.notes if classes else []


def _merge(parts: list[dict[int, Any]]) -> dict[int, Any]:
    """All images in the order of the dataset; the first process that saw one is believed."""
    merged: dict[int, Any] = {}
    for part in parts:
        merged = part | merged
    return dict(sorted(merged.items()))


def gather_objects(mine: Any) -> list[Any]:
    """What each process of the job passes, in the order of their ranks; just ``[mine]`` in a single process."""
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    return gathered
