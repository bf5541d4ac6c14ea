#!/usr/bin/env bash
# Versions: ensemble-boxes 1.0.9 (numpy 2.4.6, pandas 3.1.1).
# Behavior: weighted_boxes_fusion with two models, of which one finds an object twice, with scores 0.9 and 0.6, and the other
# does not find it, next to one box of 0.9 and of 0.6 by each model; with each conf_type.
# Output seen, 2026-11-28: with "avg", the default, two boxes of one model have the score 0.75, as those of two models, and a
# single box of 0.9 has 0.45, so a weak duplicate raises it. "box_and_model_avg" returns 0.375, "absent_model_aware_avg" 0.5.
# Right value: a missed object lowers the score by the share of the models that found it, which is 1 of 2, so the mean 0.75
# has to become 0.375. The factor is min(boxes, models) / models, which is that share only where no model has duplicates.
# Consequence: detectors without a strict NMS, such as DETR or merged tiles, confirm their own false positives, which outrank
# objects that a model found once, so AP falls. Suppress duplicates of each model before, or use "box_and_model_avg".
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check ensemble-boxes==1.0.9 numpy==2.4.6 pandas==3.1.1
cd "$folder"
cat > votes.py <<'PY'
from importlib.metadata import version

from ensemble_boxes import weighted_boxes_fusion

BOX = [0.1, 0.1, 0.3, 0.3]
CASES = {"once by each": [[0.9], [0.6]], "twice by one": [[0.9, 0.6], []], "once by one": [[0.9], []]}


def fuse(scores, conf_type):
    boxes, labels = [[BOX] * len(own) for own in scores], [[0] * len(own) for own in scores]
    _, fused, _ = weighted_boxes_fusion(boxes, scores, labels, iou_thr=0.55, conf_type=conf_type)
    assert len(fused) == 1
    return round(float(fused[0]), 4)


print("ensemble-boxes", version("ensemble-boxes"))
results = {kind: [fuse(scores, kind) for scores in CASES.values()] for kind in ("avg", "box_and_model_avg", "absent_model_aware_avg")}
shares = [sum(map(bool, scores)) / len(scores) * sum(map(sum, scores)) / sum(map(len, scores)) for scores in CASES.values()]
print(list(CASES), results, "mean times the share of the models:", [round(share, 4) for share in shares])
assert results["avg"] == [0.75, 0.75, 0.45], "avg has changed"
assert results["box_and_model_avg"] == [0.75, 0.375, 0.45] == [round(share, 4) for share in shares], "box_and_model_avg has changed"
assert results["absent_model_aware_avg"] == [0.75, 0.5, 0.45], "absent_model_aware_avg has changed"
PY
venv/bin/python -W ignore votes.py
