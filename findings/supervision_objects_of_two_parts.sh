#!/usr/bin/env bash
# Versions: supervision 0.31.2.
# Behavior: a COCO dataset with one object of two polygons, such as a partly covered one, read by DetectionDataset.from_coco
# and saved in three formats.
# Output seen, 2026-11-28: as_coco writes one object. as_yolo writes two lines and as_pascal_voc two objects, one for each
# part, and the box around both is in neither. Without masks there is one box.
# Consequence: the number and the sizes of objects change, and a detector learns to detect parts.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check supervision==0.31.2 opencv-python-headless==4.14.0.94
cd "$folder"
cat > save.py <<'PY'
import json
import os
import re
from pathlib import Path

import supervision as sv
from PIL import Image

os.makedirs("images")
Image.new("RGB", (100, 80)).save("images/a.png")
parts = [[10, 10, 30, 10, 30, 30, 10, 30], [50, 50, 70, 50, 70, 70, 50, 70]]
objects = {"with polygons": parts, "without": []}
counts = {}
for name, segmentation in objects.items():
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 60, 60], "area": 800, "iscrowd": 0, "segmentation": segmentation}
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    Path("coco.json").write_text(json.dumps(content))
    dataset = sv.DetectionDataset.from_coco("images", "coco.json")
    dataset.as_coco(f"{name}/images", f"{name}/coco.json")
    dataset.as_yolo(f"{name}/images", f"{name}/labels", f"{name}/data.yaml")
    dataset.as_pascal_voc(f"{name}/images", f"{name}/voc")
    text = Path(name, "voc/a.xml").read_text()
    boxes = [re.findall(r"<[xy]m\w+>(\d+)<", box) for box in re.findall(r"<bndbox>.*?</bndbox>", text, re.S)]
    written = json.loads(Path(name, "coco.json").read_text())["annotations"]
    lines = Path(name, "labels/a.txt").read_text().splitlines()
    counts[name] = (len(next(iter(dataset.annotations.values()))), len(written), len(lines), len(boxes))
    print(f"{name}: {counts[name][0]} object read, COCO {[a['bbox'] for a in written]}, YOLO {len(lines)} lines, VOC {boxes}")
print("supervision", sv.__version__)
assert counts["with polygons"] == (1, 1, 2, 2), "parts are no longer objects"
assert counts["without"] == (1, 1, 1, 1), "a box has changed"
PY
venv/bin/python save.py
