#!/usr/bin/env bash
# Versions: albumentations 2.0.8.
# Behavior: a pipeline with boxes and a label field of whole numbers, such as COCO's annotation ids.
# Output seen, 2026-11-28: label fields pass through one float32 array with the boxes. 16777217 becomes 16777216, and
# 900100581904 (the size of COCO's ids of crowd regions) becomes 900100587520, in an array of int64 as well. Two
# objects can have the same id afterwards. Text is returned as it was.
# Consequence: ids, areas or other numbers that go along as label fields are others after any transform, without a
# message. Pass the row of each object, and look ids up afterwards.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check albumentations==2.0.8 opencv-python-headless==5.0.0.93
cd "$folder"
cat > ids.py <<'PY'
import albumentations as A
import numpy as np

ids = [16777216, 16777217, 900100581904]
boxes = np.array([[10, 10, 30, 30], [50, 50, 90, 90], [100, 20, 140, 60]], float)
params = A.BboxParams(format="pascal_voc", label_fields=["ids"])


def transform(values):
    pipeline = A.Compose([A.HorizontalFlip(p=1)], bbox_params=params)
    return list(pipeline(image=np.zeros((100, 200, 3), np.uint8), bboxes=boxes, ids=values)["ids"])


results = {"list": transform(ids), "array of int64": transform(np.array(ids)), "text": transform([str(i) for i in ids])}
print("albumentations", A.__version__, "ids", ids)
for name, values in results.items():
    print(f"  {name}: {values}")
for name in ("list", "array of int64"):
    assert [int(i) for i in results[name]] == [16777216, 16777216, 900100587520], "ids are now exact"
assert [str(i) for i in results["text"]] == [str(i) for i in ids], "text is no longer exact"
PY
"$folder/venv/bin/python" -W ignore ids.py
