"""COCO metrics as a torchmetrics class, for training loops outside of libradet."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from numpy import ndarray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from libradet.errors import UserError
from libradet.evaluation.coco import coco_metrics, scalars
from libradet.evaluation.ground_truth import GroundTruth
from libradet.utils.arguments import check_arguments
from libradet.utils.ranges import PositiveInt
from libradet.utils.text import summarize_list


class CocoMetric(Metric):
    """Average precision and recall of boxes as defined by COCO, computed by hotcoco and equal to pycocotools.

    Same inputs as torchmetrics' ``MeanAveragePrecision``. Images may be distributed over processes.

    Args:
        class_names: names of labels 0..C-1, for metrics by class; none if None.
        class_agnostic: ignore classes (proposals).
        max_detections: maximum number of detections per image; more than 100 adds ``AR300``, more than 300 also
            ``AR1000``.
    """

    full_state_update = False
    higher_is_better = True
    detections: list[Tensor]
    ground_truths: list[Tensor]
    images: list[Tensor]

    @check_arguments
    def __init__(
        self,
        class_names: Sequence[str] | None = None,
        class_agnostic: bool = False,
        max_detections: PositiveInt = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.class_names = class_names
        self.class_agnostic = class_agnostic
        self.max_detections = max_detections
        self._has_image_ids = True
        for name in ("detections", "ground_truths", "images"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, preds: Sequence[dict[str, Tensor]], target: Sequence[dict[str, Tensor]]) -> None:
        """Add images.

        Args:
            preds: for each image ``boxes`` [D, 4] (xyxy, pixels), ``scores`` [D], ``labels`` [D].
            target: for each image ``boxes`` [G, 4], ``labels`` [G], optionally ``iscrowd`` [G] and ``area`` [G]
                (square pixels; that of the box by default). With ``image_id``, images that several processes evaluate
                are counted once.
        """
        for detections, truth in zip(preds, target, strict=True):
            # Without ids, images are numbered in order; compute renumbers those of several processes.
            image = int(truth["image_id"]) if "image_id" in truth else len(self.images)
            boxes, objects = _to_xywh(detections["boxes"]), _to_xywh(truth["boxes"])
            area = truth.get("area", objects[:, 2] * objects[:, 3])
            crowd = truth.get("iscrowd", torch.zeros_like(truth["labels"]))
            self.images.append(torch.tensor([[image, len(boxes), len(objects)]], device=boxes.device))
            self.detections.append(_to_rows(boxes, detections["scores"], detections["labels"]))
            self.ground_truths.append(_to_rows(objects, area, truth["labels"], crowd))
            self._has_image_ids = self._has_image_ids and "image_id" in truth

    def compute(self) -> dict[str, Tensor]:
        """Return ``AP``, ``AP50``, ..., ``ARl`` (0..1, without undefined ones), and ``AP/NAME`` by class.

        Raises:
            UserError: labels below 0, or beyond ``class_names``, which would not be counted.
        """
        if not len(self.images):
            return {}
        images = dim_zero_cat(self.images)
        keep, ids = self._unique_images(images)
        detections = _with_image_ids(dim_zero_cat(self.detections), images[:, 1], ids, keep)
        truths = _with_image_ids(dim_zero_cat(self.ground_truths), images[:, 2], ids, keep)
        labels = np.concatenate([detections[:, 6], truths[:, 6]]).astype(np.int64)
        if not self.class_agnostic:
            _check_labels(labels, self.class_names)
        max_label = int(labels.max(initial=0))
        names = self.class_names or [str(label) for label in range(max_label + 1)]
        ground_truth = GroundTruth(
            images=[{"id": i} for i in ids[keep].tolist()],
            categories=[{"id": label, "name": name} for label, name in enumerate(names)],
            image_ids=truths[:, 0].astype(np.int64),
            category_ids=truths[:, 6].astype(np.int64),
            boxes=truths[:, 1:5],
            area=truths[:, 5],
            crowd=truths[:, 7].astype(bool),
            segmentations=None,
            annotation_ids=list(range(len(truths))),
        )
        metrics = coco_metrics(
            ground_truth, detections, max_detections=self.max_detections, class_agnostic=self.class_agnostic
        )
        values = scalars(metrics)
        if self.class_names:
            values |= {f"AP/{name}": ap for name, ap in metrics["per_class"].items() if ap is not None}
        return {name: torch.tensor(value) for name, value in values.items()}

    def _unique_images(self, images: Int64[Tensor, "N 3"]) -> tuple[Bool[ndarray, " N"], Int64[ndarray, " N"]]:
        """Return a mask that selects each image once, and the numbers of the images in the order of their ids."""
        count = len(images)
        if not self._has_image_ids:
            return np.ones(count, dtype=bool), np.arange(count)
        _, first, numbers = np.unique(images[:, 0].cpu().numpy(), return_index=True, return_inverse=True)
        keep = np.zeros(count, dtype=bool)
        keep[first] = True
        return keep, numbers


def _check_labels(labels: Int64[ndarray, " N"], class_names: Sequence[str] | None) -> None:
    end = len(class_names) if class_names else np.inf
    wrong = np.unique(labels[(labels < 0) | (labels >= end)]).tolist()
    if wrong:
        kinds = "count from 0" if not class_names else f"are 0 to {len(class_names) - 1}, as of class_names"
        raise UserError(
            f"labels have {summarize_list(wrong)}, and they {kinds}: subtract 1 where background is 0, and leave out "
            "padding"
        )


def _to_xywh(boxes: Float[Tensor, "N 4"]) -> Float64[Tensor, "N 4"]:
    boxes = boxes.double().reshape(-1, 4)
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)


def _to_rows(boxes: Float64[Tensor, "N 4"], *columns: Shaped[Tensor, " N"]) -> Float64[Tensor, "N _"]:
    return torch.cat([boxes, *(column.to(boxes)[:, None] for column in columns)], dim=1)


def _with_image_ids(
    rows: Float64[Tensor, "N _"], counts: Int64[Tensor, " P"], ids: ndarray, keep: ndarray
) -> Float64[ndarray, "N _"]:
    """Return the rows of the selected images with the image id as first column."""
    image = np.repeat(np.arange(len(ids)), counts.cpu().numpy())
    table = np.concatenate([ids[image, None].astype(np.float64), rows.cpu().numpy()], axis=1)
    return table[keep[image]]
