"""COCO's numbers: average precision and recall, by hotcoco, equal to pycocotools'."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import hotcoco
import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from libradet.errors import UserError
from libradet.evaluation.ground_truth import GroundTruth, truth_of_records

Metrics = dict[str, Any]
"""AP ... ARl as float or None, ``per_class``, counts and ``notes``: see :func:`coco_metrics`."""

ResultRows = Float64[ndarray, "D 7"]
"""Detections in rows: image id, x, y, width, height, score, category id."""

STANDARD = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""COCO's twelve numbers in their official order."""

MASK_STANDARD = tuple(f"mask_{name}" for name in STANDARD)
"""The same of masks, where a detector's boxes and masks are both measured."""

_AREAS = {"": 0, "s": 1, "m": 2, "l": 3}


def coco_metrics(
    ground_truth: GroundTruth | dict[str, Any],
    results: ResultRows | Sequence[dict[str, Any]],
    *,
    iou_type: Literal["bbox", "segm"] = "bbox",
    max_detections: int = 100,
    class_agnostic: bool = False,
    image_ids: Iterable[int] | None = None,
) -> Metrics:
    """COCO's twelve numbers, recall beyond 100 detections, and average precision by class.

    Args:
        ground_truth: columns, or a COCO dataset: ``images``, ``categories`` and ``annotations`` with ``area``
            and ``iscrowd``.
        results: rows (boxes only), or COCO results: dicts with ``image_id``, ``category_id``, ``score``
            and ``bbox`` (xywh, pixels) or ``segmentation`` (RLE, for ``iou_type="segm"``). Where masks have
            a ``bbox``, too, COCO's tools judge by it whether they are small, medium or large.
        max_detections: how many detections of an image the detector may return. More than 100 adds
            ``AR300``, more than 300 also ``AR1000``.
        class_agnostic: classes do not matter (proposals).
        image_ids: the images that count; all of the ground truth by default.

    Returns:
        ``AP`` ... ``ARl``: 0..1, or None where there is no ground truth to find (COCO's tools say -1);
        ``per_class``: class name -> AP, ``per_class_AP50`` alike (both empty if ``class_agnostic``);
        ``ground_truths_per_class``: class name -> count; ``images``, ``ground_truths`` (crowd regions left
        out), ``detections``: counts; ``notes``: sentences to show beside the numbers.

    Raises:
        UserError: the results do not belong to this ground truth, or masks are missing from it.
    """
    truth = truth_of_records(ground_truth) if isinstance(ground_truth, dict) else ground_truth
    wanted = sorted(int(i) for i in image_ids) if image_ids is not None else [p["id"] for p in truth.images]
    _check_results(truth, results, class_agnostic)
    prepared = truth.to_hotcoco(iou_type)
    limits = _limits(max_detections)
    evaluated = _accumulate(prepared, results, iou_type, limits, class_agnostic, wanted) if wanted else None
    counts = truth.count_by_class(wanted)
    metrics: Metrics = {**(_summary(evaluated, limits) if evaluated else dict.fromkeys([*STANDARD, *_extra(limits)]))}
    metrics |= {"per_class": {}, "per_class_AP50": {}, "ground_truths_per_class": counts}
    if evaluated and not class_agnostic:
        metrics |= _by_class(evaluated["precision"], limits, list(counts))
    metrics |= {"images": len(wanted), "ground_truths": sum(counts.values()), "detections": len(results)}
    metrics["notes"] = _notes(metrics)
    return metrics


def scalars(metrics: Metrics) -> dict[str, float]:
    """The measured AP and AR numbers alone, for loggers: what has no ground truth is left out."""
    return {k: v for k, v in metrics.items() if isinstance(v, float)}


def mask_metrics(metrics: Metrics) -> Metrics:
    """What :func:`coco_metrics` says of masks, named so that it fits beside what it says of boxes."""
    numbers = [name for name in metrics if name.startswith(("AP", "AR"))]
    return {f"mask_{name}": metrics[name] for name in [*numbers, "per_class", "per_class_AP50"]}


def deciding(metrics: Metrics) -> str:
    """The number by which models are compared: AP of masks for detectors that give masks, else of boxes."""
    return "mask_AP" if "mask_AP" in metrics else "AP"


def to_results(rows: ResultRows) -> list[dict[str, Any]]:
    """Rows as COCO results: dicts with ``image_id``, ``category_id``, ``bbox`` (xywh, pixels), ``score``."""
    return [
        {"image_id": int(image), "category_id": int(category), "bbox": box, "score": score}
        for image, *box, score, category in rows.tolist()
    ]


def _limits(max_detections: int) -> list[int]:
    return [1, 10, 100] + [limit for limit, above in ((300, 100), (1000, 300)) if max_detections > above]


def _extra(limits: list[int]) -> list[str]:
    return [f"AR{limit}" for limit in limits[3:]]


def _check_results(truth: GroundTruth, results: ResultRows | Sequence[dict], class_agnostic: bool) -> None:
    if isinstance(results, np.ndarray):
        columns = results[:, 0], results[:, 6], results[:, 5]
    else:
        columns = tuple(np.array([r[key] for r in results]) for key in ("image_id", "category_id", "score"))
    images, categories, scores = columns
    _refuse_unknown(images, [p["id"] for p in truth.images], "image_id", "the split they were made on")
    if not class_agnostic:
        known = [c["id"] for c in truth.categories]
        _refuse_unknown(categories, known, "category_id", "the dataset's own category ids")
    if not np.isfinite(scores.astype(float)).all():
        raise UserError("Results hold scores that are not finite: the model has diverged or the file is damaged.")


def _refuse_unknown(found: ndarray, known: list[int], field: str, fix: str) -> None:
    unknown = np.setdiff1d(found, known)
    if len(unknown):
        named = ", ".join(str(int(i)) for i in unknown[:5])
        raise UserError(
            f"Results name {len(unknown)} {field}s that the ground truth does not have ({named}…): use {fix}."
        )


def _accumulate(
    truth: hotcoco.COCO,
    results: ResultRows | Sequence[dict],
    iou_type: str,
    limits: list[int],
    class_agnostic: bool,
    image_ids: list[int],
) -> dict[str, ndarray]:
    """Tables, -1 where no truth: precision [IoU, recall, class, area, limit] and recall [IoU, class, area, limit]."""
    loaded = truth.load_res(results if isinstance(results, np.ndarray) else list(results))
    evaluation = hotcoco.COCOeval(truth, loaded, iou_type)
    evaluation.params.max_dets = limits
    evaluation.params.use_cats = not class_agnostic
    evaluation.params.img_ids = image_ids
    evaluation.evaluate()
    evaluation.accumulate()
    tables = evaluation.eval
    assert tables is not None
    return {"precision": np.asarray(tables["precision"]), "recall": np.asarray(tables["recall"])}


def _mean(table: ndarray) -> float | None:
    measured = table[table > -1]
    return float(measured.mean()) if measured.size else None


def _summary(tables: dict[str, ndarray], limits: list[int]) -> dict[str, float | None]:
    precision, recall = tables["precision"], tables["recall"]
    at_100 = limits.index(100)
    summary = {f"AP{name}": _mean(precision[:, :, :, area, at_100]) for name, area in _AREAS.items()}
    summary |= {f"AR{name}": _mean(recall[:, :, area, at_100]) for name, area in _AREAS.items() if name}
    summary |= {f"AR{limit}": _mean(recall[:, :, 0, index]) for index, limit in enumerate(limits)}
    summary |= {"AP50": _mean(precision[0, :, :, 0, at_100]), "AP75": _mean(precision[5, :, :, 0, at_100])}
    return {name: summary[name] for name in [*STANDARD, *_extra(limits)]}


def _by_class(precision: ndarray, limits: list[int], names: list[str]) -> dict[str, dict[str, float | None]]:
    table = precision[:, :, :, 0, limits.index(100)]
    return {
        "per_class": {name: _mean(table[:, :, k]) for k, name in enumerate(names)},
        "per_class_AP50": {name: _mean(table[0, :, k]) for k, name in enumerate(names)},
    }


def _notes(metrics: Metrics) -> list[str]:
    if metrics["ground_truths"] == 0:
        return [f"No ground truth in these {metrics['images']} images: there is nothing to measure."]
    if metrics["detections"] == 0:
        return ["The detector found nothing in any image."]
    return []
