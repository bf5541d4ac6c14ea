#!/usr/bin/env bash
# Versions: mapcalc 0.2.2 (numpy 2.4.6), pycocotools 2.0.11.
# Behavior: mapcalc.calculate_map at IoU 0.5, of one object with a right detection and a wrong one, with the scores 0.9 and
# 0.1, listed in both orders; and pycocotools on the same.
# Output seen, 2026-11-28: scores are accepted, and ignored: detections are ranked in the order of the list. Right one first is
# 1, wrong one first 0.5, whichever has the score 0.9. pycocotools returns 1 and 0.5 by score, in both orders.
# Right value: ranked by score, the first detection is right, so precision is 1 at the only level of recall above 0 that is
# reached, and AP is 1; if the wrong one has the score 0.9, precision is 1/2 there, and AP is 0.5.
# Consequence: AP of a detector whose output is not sorted, such as that of several classes, tiles or models joined, is that
# of an arbitrary ranking: it can be lower or higher than the right one. Sort detections before.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check mapcalc==0.2.2 pycocotools==2.0.11 numpy==2.4.6
cd "$folder"
cat > rank.py <<'PY'
import contextlib
import io
from importlib.metadata import version

from mapcalc import calculate_map
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

OBJECT, RIGHT, WRONG = [10, 10, 50, 50], [10, 10, 50, 50], [200, 200, 220, 220]


def of_mapcalc(boxes, scores):
    truth = {"boxes": [OBJECT], "labels": [1]}
    return float(calculate_map(truth, {"boxes": boxes, "labels": [1] * len(boxes), "scores": scores}, 0.5))


def of_pycocotools(boxes, scores):
    def result(box):
        return {"image_id": 1, "category_id": 1, "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}

    truth = COCO()
    annotation = result(OBJECT) | {"id": 1, "area": 1600, "iscrowd": 0}
    truth.dataset = {"images": [{"id": 1}], "annotations": [annotation], "categories": [{"id": 1, "name": "cat"}]}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = truth.loadRes([result(box) | {"score": score} for box, score in zip(boxes, scores, strict=True)])
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return round(float(evaluation.stats[1]), 4)


print("mapcalc", version("mapcalc"), "pycocotools", version("pycocotools"))
cases = {
    "right 0.9, wrong 0.1": ([RIGHT, WRONG], [0.9, 0.1]),
    "wrong 0.1, right 0.9": ([WRONG, RIGHT], [0.1, 0.9]),
    "right 0.1, wrong 0.9": ([RIGHT, WRONG], [0.1, 0.9]),
    "wrong 0.9, right 0.1": ([WRONG, RIGHT], [0.9, 0.1]),
}
actual = {name: (of_mapcalc(*case), of_pycocotools(*case)) for name, case in cases.items()}
print("AP50 of mapcalc and pycocotools:", actual)
assert [pair[0] for pair in actual.values()] == [1, 0.5, 1, 0.5], "mapcalc's ranking has changed"
assert [pair[1] for pair in actual.values()] == [1, 1, 0.5, 0.5], "pycocotools has changed"
PY
venv/bin/python -W ignore rank.py
