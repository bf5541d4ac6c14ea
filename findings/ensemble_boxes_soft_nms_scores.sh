#!/usr/bin/env bash
# Versions: ensemble-boxes 1.0.9 (numpy 2.4.6, pandas 3.1.1).
# Behavior: soft_nms of two boxes of IoU 0.9 and one apart, with scores 0.9, 0.8 and 0.3; and nms, soft_nms, WBF and NMW
# with weights for two models.
# Output seen, 2026-11-28: soft_nms returns all boxes with the scores that were passed, also with the linear method; lower
# scores only decide on the order (0.9, 0.3, 0.8) and on what is below thresh. nms and soft_nms with weights write the
# weighted scores into the caller's lists, also lists of arrays: 0.9 and 0.6 are 0.6 and 0.2 afterwards.
# Consequence: whatever ranks detections by score, such as COCO's AP, sees duplicates with their full scores. Methods
# that are compared in one program on the same lists get other scores from the second on.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check ensemble-boxes==1.0.9 numpy==2.4.6 pandas==3.1.1
cd "$folder"
cat > fuse.py <<'PY'
from importlib.metadata import version

import numpy as np
from ensemble_boxes import nms, non_maximum_weighted, soft_nms, weighted_boxes_fusion

print("ensemble-boxes", version("ensemble-boxes"))
corners = [[0.1, 0.1, 0.3, 0.3], [0.11, 0.1, 0.31, 0.3], [0.5, 0.5, 0.7, 0.7]]
for method, name in ((1, "linear"), (2, "gaussian")):
    _, scores, _ = soft_nms([corners], [[0.9, 0.8, 0.3]], [[0, 0, 0]], method=method, iou_thr=0.5, sigma=0.5)
    print(f"soft_nms, {name}: scores 0.9, 0.8, 0.3 are returned as {scores.tolist()}")
    assert scores.tolist() == [0.9, 0.3, 0.8], "soft_nms now returns other scores"

changed = {}
for function in (nms, soft_nms, weighted_boxes_fusion, non_maximum_weighted):
    scores = [[0.9], [0.6]]
    function([corners[:1], corners[:1]], scores, [[0], [0]], weights=[2, 1])
    changed[function.__name__] = [round(float(np.squeeze(own)), 6) for own in scores]
    print(f"{function.__name__} with weights 2 and 1: the caller's scores 0.9 and 0.6 are {changed[function.__name__]} afterwards")
assert changed["nms"] == changed["soft_nms"] == [0.6, 0.2], "the caller's scores are no longer changed"
assert changed["weighted_boxes_fusion"] == changed["non_maximum_weighted"] == [0.9, 0.6], "the others have changed"
PY
venv/bin/python -W ignore fuse.py
