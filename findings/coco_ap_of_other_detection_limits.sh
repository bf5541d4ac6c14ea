#!/usr/bin/env bash
# Versions: pycocotools 2.0.11, faster-coco-eval 1.8.0 (numpy 2.4.6).
# Behavior: COCOeval.summarize after other values of params.maxDets, as for images with more than 100 objects: of 200 objects
# in an image, all detected exactly.
# Output seen, 2026-11-28: pycocotools' AP always uses the limit 100, and AP50, AP75 and AP by size the third of the list. With
# [1, 10, 300], AP is -1, and AP50 is 1. With [100, 300, 1000], AP is 0.505, and AP50, AP75 and AP of small objects are 1. A
# fourth limit is ignored. faster-coco-eval uses the last limit for all of them, so AP is 1; with four limits it
# inserts the fourth AR, so AR of small objects has the place of AR of medium ones. There is no message in either.
# Right value: AP is the mean over IoU thresholds of AP at each, which is AP50 where boxes are equal to the objects: 1 with a
# limit of 200 or more. With 100, half is found at precision 1, which is 51 of 101 levels of recall: 0.505.
# Consequence: in crowded images, a table has AP and AP50 with different limits, or -1 for AP, and the same detections
# have another AP in the other tool. Compute AP from eval["precision"], at the limit that is meant, as is done here.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pycocotools==2.0.11 faster-coco-eval==1.8.0 numpy==2.4.6
cd "$folder"
cat > limits.py <<'PY'
import contextlib
import io
from importlib.metadata import version

import faster_coco_eval
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

NAMES = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large", "AR a", "AR b", "AR c")
boxes = [[20 * (i % 20), 20 * (i // 20), 10, 10] for i in range(200)]
annotations = [
    {"id": i, "image_id": 1, "category_id": 1, "bbox": box, "area": 100, "iscrowd": 0} for i, box in enumerate(boxes, start=1)
]
dataset = {"images": [{"id": 1, "width": 400, "height": 200}], "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
results = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 1 - i / 1000} for i, box in enumerate(boxes)]


def evaluate(coco_class, evaluation_class, limits):
    truth = coco_class()
    truth.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = evaluation_class(truth, truth.loadRes(results), "bbox")
        evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, 0, 0, -1]
    return [round(float(value), 3) for value in evaluation.stats], round(float(precision.mean()), 3)


TOOLS = {
    "pycocotools": (COCO, COCOeval),
    "faster-coco-eval": (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
}
print(*(f"{name} {version(name)}" for name in TOOLS))
stats = {}
for tool, classes in TOOLS.items():
    for limits in ([1, 10, 100], [1, 10, 300], [100, 300, 1000], [1, 10, 100, 300]):
        values, last = evaluate(*classes, limits)
        stats[tool, *limits] = values
        print(tool, limits, dict(zip(NAMES, values[:9], strict=True)), "AR by size", values[9:12], "AP of the last limit", last)
        assert last == (1 if limits[-1] >= 200 else 0.505), "precision has changed"
    assert stats[tool, 1, 10, 100][:4] == [0.505, 0.505, 0.505, 0.505], "the default has changed"
    assert stats[tool, 100, 300, 1000][6:9] == [0.5, 1, 1], "AR with larger limits has changed"
assert stats["pycocotools", 1, 10, 300][:4] == [-1, 1, 1, 1], "AP without the limit 100 has changed"
assert stats["pycocotools", 100, 300, 1000][:4] == [0.505, 1, 1, 1], "AP with larger limits has changed"
assert stats["pycocotools", 1, 10, 100, 300] == stats["pycocotools", 1, 10, 100], "the fourth limit is used now"
for limits in ((1, 10, 300), (100, 300, 1000), (1, 10, 100, 300)):
    assert stats["faster-coco-eval", *limits][:4] == [1, 1, 1, 1], "AP of faster-coco-eval has changed"
assert stats["faster-coco-eval", 1, 10, 100, 300][8:12] == [0.5, 1, 1, -1], "AR by size of faster-coco-eval has changed"
PY
venv/bin/python -W ignore limits.py
