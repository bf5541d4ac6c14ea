"""COCO's numbers as a metric for anybody's training loop."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from numpy import ndarray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from libradet.evaluation.coco_metrics import coco_metrics, scalars
from libradet.evaluation.ground_truth import GroundTruth


class CocoMetric(Metric):
    """Average precision and recall of boxes as COCO defines them, by hotcoco, equal to pycocotools'.

    Takes what torchmetrics' ``MeanAveragePrecision`` takes, so it can stand in its place. Images may be
    spread over processes.

    Args:
        class_names: names of labels 0..C-1, for the numbers by class; left out if None.
        class_agnostic: classes do not matter (proposals).
        max_detections: of an image; more than 100 adds ``AR300``, more than 300 also ``AR1000``.
    """

    full_state_update = False
    higher_is_better = True
    detections: list[Tensor]
    truths: list[Tensor]
    images: list[Tensor]

    def __init__(
        self,
        class_names: Sequence[str] | None = None,
        class_agnostic: bool = False,
        max_detections: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.class_names = class_names
        self.class_agnostic = class_agnostic
        self.max_detections = max_detections
        self._numbered = True
        for name in ("detections", "truths", "images"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, preds: Sequence[dict[str, Tensor]], target: Sequence[dict[str, Tensor]]) -> None:
        """Take in images.

        Args:
            preds: for each image ``boxes`` [D, 4] (xyxy, pixels), ``scores`` [D], ``labels`` [D].
            target: for each image ``boxes`` [G, 4], ``labels`` [G], and if there are any ``iscrowd`` [G] and
                ``area`` [G] (pixels²; that of the box otherwise). ``image_id`` tells images apart that several
                processes see twice.
        """
        for found, truth in zip(preds, target, strict=True):
            # Numbers are given in order, and made distinct over processes when they meet.
            image = float(truth["image_id"]) if "image_id" in truth else float(len(self.images))
            boxes, objects = _xywh(found["boxes"]), _xywh(truth["boxes"])
            area = truth.get("area", objects[:, 2] * objects[:, 3])
            crowd = truth.get("iscrowd", torch.zeros_like(truth["labels"]))
            self.images.append(boxes.new_tensor([[image, len(boxes), len(objects)]]))
            self.detections.append(_rows(boxes, found["scores"], found["labels"]))
            self.truths.append(_rows(objects, area, truth["labels"], crowd))
            self._numbered = self._numbered and "image_id" in truth

    def compute(self) -> dict[str, Tensor]:
        """``AP``, ``AP50``, ..., ``ARl`` (0..1; left out where there is nothing to find), with names also ``AP/NAME``."""
        if not len(self.images):
            return {}
        images = dim_zero_cat(self.images)
        keep, ids = self._identify(images)
        detections = _numbered(dim_zero_cat(self.detections), images[:, 1], ids, keep)
        truths = _numbered(dim_zero_cat(self.truths), images[:, 2], ids, keep)
        most = int(max(detections[:, 6].max(initial=0), truths[:, 6].max(initial=0)))
        names = self.class_names or [str(label) for label in range(most + 1)]
        ground_truth = GroundTruth(
            images=[{"id": i} for i in ids[keep].tolist()],
            categories=[{"id": label, "name": name} for label, name in enumerate(names)],
            image=truths[:, 0].astype(np.int64),
            category=truths[:, 6].astype(np.int64),
            boxes=truths[:, 1:5],
            area=truths[:, 5],
            crowd=truths[:, 7].astype(bool),
            segmentations=None,
            numbers=list(range(len(truths))),
        )
        options = {"max_detections": self.max_detections, "class_agnostic": self.class_agnostic}
        found = coco_metrics(ground_truth, detections, **options)
        numbers = scalars(found)
        if self.class_names:
            numbers |= {f"AP/{name}": ap for name, ap in found["per_class"].items() if ap is not None}
        return {name: torch.tensor(value) for name, value in numbers.items()}

    def _identify(self, images: Float64[Tensor, "N 3"]) -> tuple[Bool[ndarray, " N"], Int64[ndarray, " N"]]:
        """Which images count, each once, and their numbers."""
        count = len(images)
        if not self._numbered:
            return np.ones(count, dtype=bool), np.arange(count)
        ids = images[:, 0].cpu().numpy().astype(np.int64)
        keep = np.zeros(count, dtype=bool)
        keep[np.unique(ids, return_index=True)[1]] = True
        return keep, ids


def _xywh(boxes: Float[Tensor, "N 4"]) -> Float64[Tensor, "N 4"]:
    boxes = boxes.double().reshape(-1, 4)
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)


def _rows(boxes: Float64[Tensor, "N 4"], *columns: Shaped[Tensor, " N"]) -> Float64[Tensor, "N _"]:
    return torch.cat([boxes, *(column.to(boxes)[:, None] for column in columns)], dim=1)


def _numbered(
    rows: Float64[Tensor, "N _"], counts: Float64[Tensor, " P"], ids: ndarray, keep: ndarray
) -> Float64[ndarray, "N _"]:
    """The rows of the images that count, the image's number before them."""
    owner = np.repeat(np.arange(len(ids)), counts.cpu().numpy().astype(np.int64))
    table = np.concatenate([ids[owner, None].astype(np.float64), rows.cpu().numpy()], axis=1)
    return table[keep[owner]]
