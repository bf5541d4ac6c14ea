#!/usr/bin/env bash
# Versions: torchmetrics 1.9.0, pycocotools 2.0.11, faster-coco-eval 1.8.0 (torch 2.15.0).
# Behavior: MeanAveragePrecision with default settings, next to pycocotools on the same boxes, of whole pixels.
# Output seen, 2026-11-28: its thresholds of IoU and recall are computed in float32, so 0.6 is 0.60000002. A
# box whose IoU is 0.6 does not match at 0.6: AP 0.2 in place of 0.3. Of a class with five objects, three of them detected,
# recall 0.6 is not reached: AP 0.594 in place of 0.604. Both backends get these thresholds.
# Consequence: AP is lower than COCO's where few objects of a class or boxes of whole pixels make such values exact.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torchmetrics==1.9.0 pycocotools==2.0.11 \
    faster-coco-eval==1.8.0 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cd "$folder"
cat > evaluate.py <<'PY'
import contextlib
import io

import torch
import torchmetrics
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.detection import MeanAveragePrecision


def of_pycocotools(truth, detected):
    coco = COCO()
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, box in enumerate(truth, start=1)
    ]
    image = {"id": 1, "width": 200, "height": 200, "file_name": "a.png"}
    coco.dataset = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        rows = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in detected]
        evaluation = COCOeval(coco, coco.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def of_torchmetrics(truth, detected, backend):
    metric = MeanAveragePrecision(box_format="xywh", backend=backend)
    labels = [torch.ones(len(boxes), dtype=torch.int64) for boxes in (truth, detected)]
    targets = {"boxes": torch.tensor(truth, dtype=torch.float32), "labels": labels[0]}
    scores = torch.full((len(detected),), 0.9)
    detections = {"boxes": torch.tensor(detected, dtype=torch.float32), "labels": labels[1], "scores": scores}
    metric.update([detections], [targets])
    return float(metric.compute()["map"])


print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__)
apart = [[20.0 * i, 0.0, 10.0, 10.0] for i in range(5)]
cases = {"one box of IoU 0.6": (apart[:1], [[0.0, 0.0, 10.0, 6.0]], 0.3, 0.2),
         "three of five objects": (apart, apart[:3], 61 / 101, 60 / 101)}
for name, (truth, detected, coco_ap, own_ap) in cases.items():
    expected = of_pycocotools(truth, detected)
    values = {backend: of_torchmetrics(truth, detected, backend) for backend in ("pycocotools", "faster_coco_eval")}
    print(f"{name}: pycocotools {expected:.4f}, torchmetrics {values}")
    assert abs(expected - coco_ap) < 1e-6, "pycocotools has changed"
    assert all(abs(value - own_ap) < 1e-6 for value in values.values()), "the thresholds are no longer those of float32"
PY
venv/bin/python evaluate.py
