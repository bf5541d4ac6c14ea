#!/usr/bin/env bash
# Versions: mean_average_precision 2024.1.5.0, pycocotools 2.0.11.
# Behavior: its map_2d, with the settings that its documentation names for VOC's and COCO's metric, of detections that are
# equal to the objects: with more classes than occur in the images, and with a difficult object or crowd region undetected.
# Output seen, 2026-11-28: mAP is the mean over all num_classes, and a class without objects has AP 0: one perfect class of 80
# is 0.0125, in pycocotools 1. A difficult object counts as one to be detected, though a detection of it is ignored,
# so its class cannot exceed 0.5 with one other object (COCO's settings: 0.505). Crowd regions have to be detected as well.
# Consequence: mAP depends on how many classes a subset of the images lacks, and is below VOC's and COCO's wherever there are
# difficult objects or crowd regions; a perfect detector does not reach 1.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check mean_average_precision==2024.1.5.0 pycocotools==2.0.11 \
    numpy==2.4.6 pandas==3.1.1
cd "$folder"
cat > evaluate.py <<'PY'
import contextlib
import io
from importlib.metadata import version

import numpy as np
from mean_average_precision import MetricBuilder
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

OBJECT, OTHER = [10, 10, 50, 50, 0], [100, 100, 150, 150, 0]
SETTINGS = {
    "VOC": {"iou_thresholds": 0.5},
    "COCO": {"iou_thresholds": np.arange(0.5, 1.0, 0.05), "recall_thresholds": np.arange(0.0, 1.01, 0.01), "mpolicy": "soft"},
}


def evaluate(objects, detections, num_classes=1):
    """Return mAP with both settings; objects end in class, difficult, crowd, and detections in class, score."""
    result = []
    for settings in SETTINGS.values():
        metric = MetricBuilder.build_evaluation_metric("map_2d", async_mode=False, num_classes=num_classes)
        metric.add(np.array(detections, float), np.array(objects, float))
        result.append(round(float(metric.value(**settings)["mAP"]), 4))
    return result


def coco_ap(num_classes, iscrowd):
    """Return pycocotools' AP of the same image, with the second object if ``iscrowd`` is not None."""
    box = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40]}
    annotations = [box | {"id": 1, "area": 1600, "iscrowd": 0}]
    if iscrowd is not None:
        annotations.append(box | {"id": 2, "bbox": [100, 100, 50, 50], "area": 2500, "iscrowd": iscrowd})
    truth = COCO()
    categories = [{"id": i, "name": str(i)} for i in range(1, num_classes + 1)]
    truth.dataset = {"images": [{"id": 1}], "annotations": annotations, "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes([box | {"score": 0.9}]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return round(float(evaluation.stats[0]), 4)


found, detection = [*OBJECT, 0, 0], [*OBJECT, 0.9]
print("mean_average_precision", version("mean_average_precision"), "pycocotools", version("pycocotools"))
results = {n: (evaluate([found], [detection], n), coco_ap(n, None)) for n in (1, 2, 80)}
print("mAP with VOC's settings, with COCO's settings, pycocotools, by number of classes:", results)
assert results == {1: ([1, 1], 1), 2: ([0.5, 0.5], 1), 80: ([0.0125, 0.0125], 1)}, "absent classes have changed"
difficult = [evaluate([found, [*OTHER, 1, 0]], [detection, *more]) for more in ([], [[*OTHER, 0.8]])]
print("a difficult object, undetected and detected:", difficult)
assert difficult == [[0.5, 0.505], [0.5, 0.505]], "difficult objects have changed"
crowd = evaluate([found, [*OTHER, 0, 1]], [detection]), coco_ap(1, 1)
print("a crowd region, undetected:", crowd)
assert crowd == ([0.5, 0.505], 1), "crowd regions have changed"
PY
venv/bin/python -W ignore evaluate.py
