#!/usr/bin/env bash
# Versions: sahi 0.12.8.
# Behavior: slicing of a COCO dataset that has a crowd region, and boxes in fractions of pixels without segmentation.
# Output seen, 2026-11-27: the parts of the crowd region have iscrowd 0. A box keeps its fractions, but its area is that of
# a polygon of whole pixels, 1242 for 30.5 x 40.75 = 1242.875, and the polygon is written as its segmentation.
# Consequence: regions to ignore become objects that a detector is trained on and evaluated with.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check sahi==0.12.8
cd "$folder"
cat > slice.py <<'PY'
import json
import os
from pathlib import Path

from PIL import Image
from sahi.slicing import slice_coco

os.makedirs("images")
Image.new("RGB", (100, 80)).save("images/a.png")
crowd = {"bbox": [40, 2, 30, 40], "area": 1200, "iscrowd": 1, "segmentation": []}
box = {"bbox": [1.25, 2.5, 30.5, 40.75], "area": 1242.875, "iscrowd": 0, "segmentation": []}
content = {
    "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}],
    "annotations": [{"id": i, "image_id": 1, "category_id": 1} | fields for i, fields in enumerate((crowd, box), start=1)],
    "categories": [{"id": 1, "name": "cat", "supercategory": ""}],
}
Path("coco.json").write_text(json.dumps(content))
options = {"slice_height": 80, "slice_width": 50, "overlap_height_ratio": 0, "overlap_width_ratio": 0}
result, _ = slice_coco("coco.json", "images", output_coco_annotation_file_name="out", output_dir="out", verbose=False, **options)
for a in result["annotations"]:
    print("image", a["image_id"], "box", a["bbox"], "iscrowd", a["iscrowd"], "area", a["area"], a["segmentation"])
boxes = {tuple(a["bbox"]): a for a in result["annotations"]}
assert boxes[40.0, 2.0, 10.0, 40.0]["iscrowd"] == 0, "crowd regions now remain crowd regions"
assert boxes[1.25, 2.5, 30.5, 40.75]["area"] == 1242, "areas are now those of the boxes"
PY
venv/bin/python slice.py 2> log.txt || { cat log.txt; exit 1; }
