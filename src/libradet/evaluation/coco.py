"""COCO metrics: average precision and recall, computed by hotcoco with results equal to pycocotools."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import hotcoco
import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from libradet.data.records import id_order
from libradet.errors import UserError
from libradet.evaluation.ground_truth import GroundTruth, comparable_id, ground_truth_from_coco, number_ids
from libradet.utils.text import counted, summarize_list

Metrics = dict[str, Any]
"""``AP`` ... ``ARl`` as float or None, ``per_class``, counts and ``notes``: see :func:`coco_metrics`."""

ResultRows = Float64[ndarray, "D 7"]
"""Detections as rows: image, x, y, width, height, score, category."""

STANDARD_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve COCO metrics in their official order."""

MASK_METRICS = tuple(f"mask_{name}" for name in STANDARD_METRICS)
"""The twelve metrics of masks, for detectors whose boxes and masks are both evaluated."""

_AREAS = {"": 0, "s": 1, "m": 2, "l": 3}


def coco_metrics(
    ground_truth: GroundTruth | dict[str, Any],
    results: ResultRows | Sequence[dict[str, Any]],
    *,
    iou_type: Literal["bbox", "segm"] = "bbox",
    max_detections: int = 100,
    class_agnostic: bool = False,
    image_ids: Iterable[int | str] | None = None,
) -> Metrics:
    """Compute the twelve COCO metrics, recall beyond 100 detections, and AP by class.

    Args:
        ground_truth: columns, or a COCO dictionary: ``images``, ``categories`` and ``annotations`` with ``area``
            and ``iscrowd``. With a dictionary, ``results`` and ``image_ids`` have its ids, whole numbers or text; with
            columns, which are numbered, its numbers.
        results: rows (boxes only), or COCO results: dicts with ``image_id``, ``category_id``, ``score``
            and ``bbox`` (xywh, pixels) or ``segmentation`` (RLE, for ``iou_type="segm"``). COCOeval assigns masks
            that also have a ``bbox`` to small, medium or large by the box.
        max_detections: maximum number of detections per image of the detector. More than 100 adds ``AR300``, more
            than 300 also ``AR1000``.
        class_agnostic: ignore classes (proposals).
        image_ids: images to evaluate; all of the ground truth if None.

    Returns:
        ``AP`` ... ``ARl``: 0..1, or None without ground truth (-1 in COCOeval);
        ``per_class``: class name -> AP, ``per_class_AP50`` and ``per_class_AR100`` (empty if ``class_agnostic``);
        ``ground_truths_per_class``: class name -> count; ``images``, ``ground_truths`` (without crowd regions),
        ``detections``: counts; ``notes``: messages on the evaluation.

    Raises:
        UserError: the results do not belong to this ground truth, or masks are missing from it.
    """
    if isinstance(ground_truth, dict):
        truth = ground_truth_from_coco(ground_truth)
        results = _number_results(ground_truth, results, class_agnostic)
        if image_ids is not None:
            image_ids = _numbers_of(image_ids, ground_truth["images"], "image_id", "those of the dataset")
    else:
        truth = ground_truth
    evaluated_ids = sorted(p["id"] for p in truth.images) if image_ids is None else sorted(int(i) for i in image_ids)
    _check_scores(results)
    coco = truth.to_hotcoco(iou_type)
    limits = _detection_limits(max_detections)
    counts = truth.count_by_class(evaluated_ids)
    tables = None
    if evaluated_ids:
        tables = _accumulate(coco, results, iou_type, limits, class_agnostic, evaluated_ids)
    metrics: Metrics = dict(_summary(tables, limits)) if tables else dict.fromkeys(_metric_names(limits))
    metrics |= {"per_class": {}, "per_class_AP50": {}, "per_class_AR100": {}, "ground_truths_per_class": counts}
    if tables and not class_agnostic:
        metrics |= _by_class(tables, limits, list(counts))
    metrics |= {"images": len(evaluated_ids), "ground_truths": sum(counts.values()), "detections": len(results)}
    metrics["notes"] = _notes(metrics)
    return metrics


def scalars(metrics: Metrics) -> dict[str, float]:
    """Return AP and AR values only, for loggers, without those that are None."""
    return {k: v for k, v in metrics.items() if isinstance(v, float)}


def prefix_mask_metrics(metrics: Metrics) -> Metrics:
    """Return mask metrics with names that start with ``mask_``, to be merged with box metrics."""
    names = [name for name in metrics if name.startswith(("AP", "AR"))]
    return {f"mask_{name}": metrics[name] for name in [*names, "per_class", "per_class_AP50"]}


def primary_metric(metrics: Metrics) -> str:
    """Return the name of the metric that selects the best model: AP of masks if they were evaluated, else of boxes."""
    return "mask_AP" if "mask_AP" in metrics else "AP"


def rows_to_coco_results(
    rows: ResultRows, image_ids: dict[int, int | str] | None = None, category_ids: Sequence[int | str] = ()
) -> list[dict[str, Any]]:
    """Convert rows to COCO results: dicts with ``image_id``, ``category_id``, ``bbox`` (xywh, pixels), ``score``.

    Args:
        image_ids: id of each image number; None if the rows have ids.
        category_ids: ids of categories 1, 2, ...; empty if the rows have ids.
    """
    results = []
    for image, *box, score, category in rows.tolist():
        image_id = int(image) if image_ids is None else image_ids[int(image)]
        category_id = category_ids[int(category) - 1] if category_ids else int(category)
        results.append({"image_id": image_id, "category_id": category_id, "bbox": box, "score": score})
    return results


def _detection_limits(max_detections: int) -> list[int]:
    """Return COCOeval's ``maxDets``: 1, 10, 100, and 300 and 1000 if the detector may have more detections."""
    limits = [1, 10, 100]
    if max_detections > 100:
        limits.append(300)
    if max_detections > 300:
        limits.append(1000)
    return limits


def _metric_names(limits: list[int]) -> list[str]:
    return [*STANDARD_METRICS, *(f"AR{limit}" for limit in limits[3:])]


def _number_results(
    truth: dict[str, Any], results: ResultRows | Sequence[dict[str, Any]], class_agnostic: bool
) -> ResultRows | list[dict[str, Any]]:
    """Return results with the numbers of images and categories in place of their ids; refuse unknown ids."""
    as_rows = isinstance(results, ndarray)
    image_ids = results[:, 0].astype(np.int64).tolist() if as_rows else [r["image_id"] for r in results]
    category_ids = results[:, 6].astype(np.int64).tolist() if as_rows else [r["category_id"] for r in results]
    images = _numbers_of(image_ids, truth["images"], "image_id", "the split they were made on")
    if class_agnostic:
        known = number_ids(category["id"] for category in truth["categories"])
        categories = [known.get(comparable_id(i), len(known) + 1) for i in category_ids]
    else:
        categories = _numbers_of(category_ids, truth["categories"], "category_id", "the dataset's own category ids")
    if as_rows:
        return np.column_stack([np.array(images, float), results[:, 1:6], np.array(categories, float)])
    numbers = zip(results, images, categories, strict=True)
    return [result | {"image_id": image, "category_id": category} for result, image, category in numbers]


def _numbers_of(ids: Iterable[Any], records: list[dict[str, Any]], field: str, fix: str) -> list[int]:
    numbers = number_ids(record["id"] for record in records)
    ids = list(ids)
    unknown = {i for i in ids if comparable_id(i) not in numbers}
    if unknown:
        examples = summarize_list(sorted(unknown, key=id_order))
        raise UserError(
            f"results have {len(unknown)} {field}s that are not in the ground truth ({examples}): use {fix}"
        )
    return [numbers[comparable_id(i)] for i in ids]


def _check_scores(results: ResultRows | Sequence[dict[str, Any]]) -> None:
    scores = results[:, 5] if isinstance(results, ndarray) else np.array([r["score"] for r in results], float)
    if not np.isfinite(scores).all():
        raise UserError("results have scores that are NaN or infinite: the model has diverged or the file is damaged")


def _accumulate(
    truth: hotcoco.COCO,
    results: ResultRows | Sequence[dict],
    iou_type: str,
    limits: list[int],
    class_agnostic: bool,
    image_ids: list[int],
) -> dict[str, ndarray]:
    """Return COCOeval's tables, -1 without ground truth.

    ``precision`` is [IoU, recall, class, area, limit] and ``recall`` [IoU, class, area, limit].
    """
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
    values = table[table > -1]
    return float(values.mean()) if values.size else None


def _summary(tables: dict[str, ndarray], limits: list[int]) -> dict[str, float | None]:
    precision, recall = tables["precision"], tables["recall"]
    at_100 = limits.index(100)
    summary = {f"AP{name}": _mean(precision[:, :, :, area, at_100]) for name, area in _AREAS.items()}
    summary |= {f"AR{name}": _mean(recall[:, :, area, at_100]) for name, area in _AREAS.items() if name}
    summary |= {f"AR{limit}": _mean(recall[:, :, 0, index]) for index, limit in enumerate(limits)}
    summary |= {"AP50": _mean(precision[0, :, :, 0, at_100]), "AP75": _mean(precision[5, :, :, 0, at_100])}
    return {name: summary[name] for name in _metric_names(limits)}


def _by_class(tables: dict[str, ndarray], limits: list[int], names: list[str]) -> dict[str, dict[str, float | None]]:
    table = tables["precision"][:, :, :, 0, limits.index(100)]
    recall = tables["recall"][:, :, 0, limits.index(100)]
    return {
        "per_class": {name: _mean(table[:, :, k]) for k, name in enumerate(names)},
        "per_class_AP50": {name: _mean(table[0, :, k]) for k, name in enumerate(names)},
        "per_class_AR100": {name: _mean(recall[:, k]) for k, name in enumerate(names)},
    }


def _notes(metrics: Metrics) -> list[str]:
    if metrics["ground_truths"] == 0:
        return [f"No ground truth in {counted(metrics['images'], 'image')}: AP and AR are undefined."]
    if metrics["detections"] == 0:
        return ["The detector has no detections in any image."]
    return []
