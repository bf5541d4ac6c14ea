"""Class level: frequency of each class against its AP, its share of the classification loss, and its confusions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsInt

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from numpy import ndarray
from scipy.stats import spearmanr
from torch import Tensor
from torchvision.ops import box_iou

from libradet.analysis.run_settings import read_run_settings
from libradet.data.records import Dataset
from libradet.data.repeat_factors import class_image_fractions, count_objects, num_repeated, repeat_factors
from libradet.data.validation.annotations import xywh_to_xyxy
from libradet.evaluation.coco import Metrics
from libradet.evaluation.ground_truth import ground_truth_from_dataset
from libradet.models.config import DetectorConfig

MATCH_IOU = 0.5
"""IoU from which a detection matches an object, whatever its class."""

RARE = 0.1
"""Classes with less than this fraction of the objects of the most frequent class are rare, the others frequent."""

MIN_CLASSES = 5
"""Number of classes below which AP and frequency are not correlated."""


class TrainFrequency(NamedTuple):
    """Frequency of the classes in the training split, in the order of the analyzed classes.

    Attributes:
        objects: of each class.
        images: fraction of the images that contain each class.
        repeat_thresh: a threshold for repeat-factor sampling: the median of ``images`` over classes that occur.
        epoch: images of an epoch with this threshold, over those without.
    """

    objects: list[int]
    images: list[float]
    repeat_thresh: float | None
    epoch: float


def class_frequency(dataset: Dataset, class_names: Sequence[str]) -> TrainFrequency:
    """Count the classes of a split; a class that it does not have occurs in no image."""
    objects = dict(zip(dataset.class_names, count_objects(dataset), strict=True))
    images = dict(zip(dataset.class_names, class_image_fractions(dataset).tolist(), strict=True))
    present = [fraction for fraction in images.values() if fraction]
    threshold = float(f"{np.median(present):.2g}") if present else None
    epoch = num_repeated(repeat_factors(dataset, threshold)) / len(dataset) if threshold else 1.0
    return TrainFrequency(
        [objects.get(name, 0) for name in class_names],
        [images.get(name, 0.0) for name in class_names],
        threshold,
        epoch,
    )


def class_options(config: DetectorConfig, model: str | Path) -> dict[str, Any]:
    """Return the options against class imbalance that a model was trained with.

    Args:
        model: its file; the settings of the run are those of config.yaml in its folder, if there is one.

    Returns:
        ``repeat_factor_thresh``: 0 without it, None if the settings of the run are not known; ``class_balance``: type
        of the box head's loss, None without one; ``can_balance_loss``: whether there is a box head, without focal loss.
    """
    balance = None if config.roi is None else config.roi.class_balance
    settings = read_run_settings(model)
    threshold = None if settings is None else settings.get("repeat_factor_thresh", 0)
    return {
        "repeat_factor_thresh": float(threshold) if isinstance(threshold, int | float) else None,
        "class_balance": None if balance is None else balance.type,
        "can_balance_loss": config.roi is not None and config.roi.focal is None,
    }


class ClassLosses:
    """Classification loss of a stage by class, accumulated over images.

    Args:
        num_classes: C; the label of the background.
    """

    def __init__(self, num_classes: int) -> None:
        self.totals = torch.zeros(num_classes + 1, 3, dtype=torch.float64)

    def update(
        self,
        labels: Int[Tensor, "B S"],
        chosen: Bool[Tensor, "B S"],
        loss: Float[Tensor, "B S"],
        gradient: Float[Tensor, "B S"],
    ) -> None:
        """Add the samples of a batch that are ``chosen``, by their label."""
        values = torch.stack([torch.ones_like(loss), loss, gradient], -1).double()
        self.totals.index_add_(0, labels[chosen], values[chosen])

    def compute(self) -> list[dict[str, Any]]:
        """Return the number of samples of each label, and its shares of loss and gradient; None if all are 0."""
        shares = self.totals / self.totals.sum(0)
        return [
            {"samples": int(total[0]), "loss": _finite(share[1]), "gradient": _finite(share[2])}
            for total, share in zip(self.totals.tolist(), shares.tolist(), strict=True)
        ]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def confusion_counts(dataset: Dataset, rows: Float64[ndarray, "D 7"]) -> Int64[ndarray, "C C1"]:
    """Count objects by true class and by the class of the detection that they are matched to; the last is "none".

    By descending score, each detection is matched to the object of its image with the largest IoU among those that are
    not matched yet, if it is at least ``MATCH_IOU``. Classes do not matter.

    Args:
        rows: detections as of ``CocoEvaluator.rows``: image number, x, y, width, height, score, label + 1.
    """
    truth = ground_truth_from_dataset(dataset)
    number = len(dataset.class_names)
    counts = np.zeros((number, number + 1), np.int64)
    for image in truth.images:
        objects = (truth.image_ids == image["id"]) & ~truth.crowd
        detections = rows[rows[:, 0] == image["id"]]
        detections = detections[np.argsort(-detections[:, 5], kind="stable")]
        matched = _match(truth.boxes[objects], detections[:, 1:5])
        predicted = np.append(detections[:, 6].astype(np.int64) - 1, number)[matched]
        np.add.at(counts, (truth.category_ids[objects] - 1, predicted), 1)
    return counts


def _match(objects: Float64[ndarray, "G 4"], detections: Float64[ndarray, "D 4"]) -> Int64[ndarray, " G"]:
    """Return the row of the detection of each object, -1 without one; boxes are xywh, by descending score."""
    detection_of = np.full(len(objects), -1)
    iou = box_iou(torch.from_numpy(xywh_to_xyxy(detections)), torch.from_numpy(xywh_to_xyxy(objects))).numpy()
    for detection in np.flatnonzero((iou >= MATCH_IOU).any(1)):
        free = np.where(detection_of < 0, iou[detection], 0.0)
        best = int(free.argmax())
        if free[best] >= MATCH_IOU:
            detection_of[best] = detection
    return detection_of


def class_results(
    metrics: Metrics,
    dataset: Dataset,
    train: TrainFrequency | None,
    confusion: Int64[ndarray, "C C1"],
    losses: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Return a row for each class, by descending frequency.

    Args:
        train: frequency in the training split; that of ``dataset`` counts if None.
        losses: shares of each class of the dataset.

    Returns:
        ``class``; ``objects`` that are evaluated; ``train_objects``; ``AP``, ``AP50`` and ``AR100``; ``samples``,
        ``loss`` and ``gradient``, see :class:`ClassLosses`; of the objects, the share ``as_other`` that is predicted as
        another class, and ``as_more_frequent``. None where not measured.
    """
    counts = count_objects(dataset)
    frequency = np.array(counts if train is None else train.objects)
    rows = []
    for label in sorted(range(len(counts)), key=lambda label: (-frequency[label], -counts[label])):
        name, predicted = dataset.class_names[label], confusion[label, :-1]
        more_frequent = predicted[frequency > frequency[label]].sum()
        rows.append(
            {
                "class": name,
                "objects": counts[label],
                "train_objects": None if train is None else train.objects[label],
                "AP": metrics["per_class"].get(name),
                "AP50": metrics["per_class_AP50"].get(name),
                "AR100": metrics["per_class_AR100"].get(name),
                **losses[label],
                "as_other": _share(predicted.sum() - predicted[label], counts[label]),
                "as_more_frequent": _share(more_frequent, counts[label]),
            }
        )
    return rows


def frequency(row: dict[str, Any]) -> int:
    """Return the objects of a class in the training split, or in the analyzed one if there is no other."""
    return row["objects"] if row.get("train_objects") is None else row["train_objects"]


def summarize_imbalance(rows: list[dict[str, Any]], confusion: dict[str, Any]) -> dict[str, Any]:
    """Return numbers of all classes together; None where not measured.

    Args:
        rows: of :func:`class_results`.
        confusion: ``classes`` and ``counts``, a row for each true class, and "none" last.

    Returns:
        ``ratio``: frequency of the most frequent class over that of the rarest that occurs; ``gini``: coefficient, 0
        if all are equally frequent; ``entropy``: over that of equal frequencies, so 1 then; ``correlation``: see
        :func:`frequency_correlation`; ``rare``: names, see ``RARE``; ``rare_as_frequent``: share of their objects that
        is predicted as a class that is not rare.
    """
    present = np.array([n for n in map(frequency, rows) if n], np.float64)
    rare = rare_classes(rows)
    is_rare = np.isin(confusion["classes"], rare)
    counts = np.array(confusion["counts"]).reshape(len(is_rare), -1)[is_rare]
    return {
        "ratio": float(present.max() / present.min()) if len(present) else None,
        "gini": gini(present) if len(present) else None,
        "entropy": entropy(present) if len(present) else None,
        "correlation": frequency_correlation(rows),
        "rare": rare,
        "rare_as_frequent": _share(counts[:, :-1][:, ~is_rare].sum(), counts.sum()),
    }


def unseen_classes(rows: list[dict[str, Any]]) -> list[str]:
    """Return the names of classes that are evaluated, but have no object in the training split."""
    return [row["class"] for row in rows if row["objects"] and not frequency(row)]


def rare_classes(rows: list[dict[str, Any]]) -> list[str]:
    """Return the names of classes that are rare, but occur."""
    most = max(map(frequency, rows), default=0)
    return [row["class"] for row in rows if 0 < frequency(row) < RARE * most]


def gini(counts: Float64[ndarray, " C"]) -> float:
    """Return the Gini coefficient: mean difference of two classes over twice the mean frequency."""
    return float(np.abs(counts[:, None] - counts).mean() / (2 * counts.mean()))


def entropy(counts: Float64[ndarray, " C"]) -> float:
    """Return the entropy of positive frequencies over the largest possible; 1 for a single class."""
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum() / np.log(len(counts))) if len(counts) > 1 else 1.0


def frequency_correlation(rows: list[dict[str, Any]]) -> float | None:
    """Return the rank correlation (Spearman) of frequency and AP; None with fewer than ``MIN_CLASSES`` classes."""
    measured = [(frequency(row), row["AP"]) for row in rows if frequency(row) and row["AP"] is not None]
    if len(measured) < MIN_CLASSES or min(np.std(measured, axis=0)) == 0:
        return None
    return float(spearmanr(np.array(measured)).statistic)


def _share(count: SupportsInt, total: SupportsInt) -> float | None:
    return int(count) / int(total) if int(total) else None
