"""COCO metrics of many images: libradet (hotcoco) in turns with pycocotools."""

import contextlib
import io
import time
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from libradet.evaluation.coco import STANDARD_METRICS, coco_metrics

CLASSES, OBJECTS, DETECTIONS = 80, 7, 50


def measure_evaluation(images: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of both in each round, and the largest difference between the twelve metrics.

    Both start from annotations as a dictionary and detections as an array of rows.
    """
    truth, rows = _generate(images)
    seconds: dict[str, list[float]] = {"ours": [], "pycocotools": []}
    for _ in range(rounds):
        start = time.perf_counter()
        ours = coco_metrics(truth, rows)
        middle = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            theirs = _pycocotools(truth, rows)
        seconds["ours"].append(middle - start)
        seconds["pycocotools"].append(time.perf_counter() - middle)
    difference = max(abs((ours[name] or 0) - value) for name, value in zip(STANDARD_METRICS, theirs, strict=True))
    return {"images": images, "detections": len(rows), "AP": ours["AP"], "differ": difference, "seconds": seconds}


def _generate(images: int) -> tuple[dict[str, Any], np.ndarray]:
    """Return annotations of objects of all sizes, and detections of which a third are near an object."""
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(images) + 1, OBJECTS)
    side = np.exp(rng.uniform(np.log(8), np.log(300), (len(image), 2)))
    boxes = np.concatenate([rng.uniform(0, 1, (len(image), 2)) * (640 - side), side], 1)
    labels = rng.integers(1, CLASSES + 1, len(image))
    annotations = [
        {
            "id": i + 1,
            "image_id": int(image[i]),
            "category_id": int(labels[i]),
            "bbox": boxes[i].tolist(),
            "area": float(side[i].prod()),
            "iscrowd": 0,
        }
        for i in range(len(image))
    ]
    truth = {
        "images": [{"id": i + 1, "width": 640, "height": 640, "file_name": f"{i}.jpg"} for i in range(images)],
        "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(CLASSES)],
        "annotations": annotations,
    }
    num_detections = images * DETECTIONS
    source = np.repeat(np.arange(images) * OBJECTS, DETECTIONS) + rng.integers(0, OBJECTS, num_detections)
    near = rng.random(num_detections) < 1 / 3
    detected, size = boxes[source], np.tile(boxes[source, 2:], 2)
    detected = detected + size * rng.normal(0, np.where(near, 0.05, 1.0)[:, None], detected.shape)
    detected[:, 2:] = detected[:, 2:].clip(4)
    classes = np.where(near, labels[source], rng.integers(1, CLASSES + 1, num_detections))
    scores = rng.uniform(0.05, 1, num_detections) * np.where(near, 1, 0.7)
    return truth, np.column_stack([image[source], detected, scores, classes])


def _pycocotools(truth: dict[str, Any], rows: np.ndarray) -> list[float]:
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(rows), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats.tolist()
