#!/usr/bin/env bash
# Versions: ultralytics 8.4.190 (torch 2.15.0).
# Behavior: convert_coco of COCO datasets whose category ids count from 0, and whose ids have gaps.
# Output seen, 2026-11-27: the class is always the id minus 1. Ids 0, 1, 2 become the classes -1, 0, 1, and ids 1, 3, 7 the
# classes 0, 2, 6 of three names. No names are written, and there is no message.
# Consequence: with ids from 0, which COCO's format allows, all classes are others.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check ultralytics==8.4.190 torch==2.15.0 torchvision==0.29.2
cd "$folder"
cat > convert.py <<'PY'
import json
import os
from pathlib import Path

os.environ |= {"YOLO_OFFLINE": "True", "YOLO_CONFIG_DIR": os.getcwd(), "YOLO_VERBOSE": "False"}
import ultralytics
from ultralytics.data.converter import convert_coco

def classes(ids):
    name = "-".join(map(str, ids))
    box = {"image_id": 1, "bbox": [10, 20, 30, 40], "area": 1200, "iscrowd": 0, "segmentation": []}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}],
        "annotations": [box | {"id": i, "category_id": c, "bbox": [10, 20 + i, 30, 40]} for i, c in enumerate(ids)],
        "categories": [{"id": c, "name": f"class {c}"} for c in ids],
    }
    Path(f"in-{name}").mkdir()
    Path(f"in-{name}/instances_train.json").write_text(json.dumps(content))
    convert_coco(f"in-{name}", f"out-{name}", cls91to80=False)
    (labels,) = Path(f"out-{name}").rglob("a.txt")
    return [int(line.split()[0]) for line in labels.read_text().splitlines()]

print("ultralytics", ultralytics.__version__)
for ids, expected in (([0, 1, 2], [-1, 0, 1]), ([1, 3, 7], [0, 2, 6])):
    written = classes(ids)
    print(f"category ids {ids}: classes {written}")
    assert written == expected, "the classes have changed"
PY
venv/bin/python convert.py 2> log.txt || { cat log.txt; exit 1; }
