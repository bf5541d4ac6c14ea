#!/usr/bin/env bash
# Versions: datumaro 1.13.12.
# Behavior: export to COCO of masks, of two boxes in one group, and of a rotated box.
# Output seen, 2026-11-27: a mask without any attribute becomes iscrowd 1. Two boxes in one group, of different classes,
# become one annotation of the first class, whose box encloses both. A rotated box is not written, without a message.
# Consequence: objects with masks are ignored in training and evaluation, and grouped or rotated objects are lost.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check datumaro==1.13.12 opencv-python-headless==4.14.0.94
cd "$folder"
cat > export.py <<'PY'
import json
from pathlib import Path

import numpy as np
from datumaro.components.annotation import Bbox, Mask, RotatedBbox
from datumaro.components.dataset import Dataset
from datumaro.components.dataset_base import DatasetItem
from datumaro.components.media import Image

pixels = np.zeros((80, 100), bool)
pixels[10:20, 30:45] = True
objects = {
    "mask": [Mask(pixels, label=0)],
    "group": [Bbox(10, 10, 20, 20, label=0, group=1), Bbox(50, 50, 20, 20, label=1, group=1)],
    "rotated": [RotatedBbox(50, 40, 20, 10, 30, label=1)],
}
image, written = Image.from_numpy(np.zeros((80, 100, 3), np.uint8)), {}
for name, annotations in objects.items():
    item = DatasetItem("a", subset="train", media=image, annotations=annotations)
    Dataset.from_iterable([item], categories=["cat", "dog"]).export(name, "coco_instances", save_media=True)
    content = json.loads(Path(name, "annotations/instances_train.json").read_text())
    written[name] = [(a["category_id"], a["bbox"], a["iscrowd"]) for a in content["annotations"]]
    print(f"{name}: {len(annotations)} annotations, written (category, box, iscrowd): {written[name]}")
assert written["mask"] == [(1, [30, 10, 15, 10], 1)], "masks are no longer iscrowd"
assert written["group"] == [(1, [10, 10, 60, 60], 0)], "boxes of a group are no longer merged"
assert written["rotated"] == [], "rotated boxes are now written"
PY
venv/bin/python export.py 2> log.txt || { cat log.txt; exit 1; }
