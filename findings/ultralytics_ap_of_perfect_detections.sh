#!/usr/bin/env bash
# Versions: ultralytics 8.4.190 (torch 2.15.0), pycocotools 2.0.11.
# Behavior: ultralytics.utils.metrics.ap_per_class of the detections of one class, of which the best-scored are right, and
# pycocotools on the same.
# Output seen, 2026-11-28: AP of detections that are all right and complete is 0.995 for any number of objects, and 1 in
# pycocotools. With 1, 5 or 9 of 10 objects found it is 0.095, 0.495 and 0.895, next to 0.109, 0.505 and 0.901:
# the same 101 levels of recall, but a trapezoid of the precision between them, which falls to 0 behind the last one.
# Consequence: mAP is at most 0.995, and lower than COCO's by half a point to one and a half, most for rare classes; it is
# not comparable with COCO's to the third digit.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check ultralytics==8.4.190 torch==2.15.0 \
    torchvision==0.29.2 pycocotools==2.0.11
cd "$folder"
cat > evaluate.py <<'PY'
import contextlib
import io

import numpy as np
import ultralytics
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from ultralytics.utils.metrics import ap_per_class


def yolo(found, objects):
    """Return Ultralytics' AP at IoU 0.5."""
    right = np.ones((found, 10), bool)
    return ap_per_class(right, np.linspace(0.9, 0.5, found), np.zeros(found), np.zeros(objects))[5][0, 0]


def coco(found, objects):
    """Return pycocotools' AP at IoU 0.5."""
    truth = COCO()
    boxes = [[20 * i, 0, 10, 10] for i in range(objects)]
    common = {"image_id": 1, "category_id": 1, "area": 100, "iscrowd": 0}
    truth.dataset = {
        "info": {},
        "images": [{"id": 1, "width": 20 * objects, "height": 10}],
        "annotations": [common | {"id": i, "bbox": box} for i, box in enumerate(boxes, start=1)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        scores = np.linspace(0.9, 0.5, found)
        detections = [common | {"bbox": box, "score": score} for box, score in zip(boxes[:found], scores, strict=True)]
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[1]


print("ultralytics", ultralytics.__version__)
results = {case: (round(float(yolo(*case)), 3), round(float(coco(*case)), 3)) for case in ((1, 1), (10, 10), (1, 10), (5, 10), (9, 10))}
for (found, objects), (first, second) in results.items():
    print(f"{found} of {objects} found: ultralytics {first}, pycocotools {second}")
assert results[1, 1] == results[10, 10] == (0.995, 1.0), "AP of perfect detections has changed"
assert results[1, 10] == (0.095, 0.109) and results[5, 10] == (0.495, 0.505) and results[9, 10] == (0.895, 0.901), "AP has changed"
PY
YOLO_CONFIG_DIR="$folder" venv/bin/python evaluate.py
