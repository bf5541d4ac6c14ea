#!/usr/bin/env bash
# Versions: supervision 0.31.2, label-studio-sdk 2.0.19.
# Behavior: export to Pascal VOC of boxes in fractions of pixels.
# Output seen, 2026-11-27: supervision adds 1 to the upper left corner and rounds halves to even: a box from 10.5 to 30.5
# is written as pixels 12 to 30, which are 19. label-studio-sdk cuts decimals off: a box from 10.2 to 10.9 has the height
# 0. It writes no file for an image without a box.
# Consequence: small boxes change size or vanish, and images without objects are lost.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check supervision==0.31.2 opencv-python-headless==4.14.0.94 label-studio-sdk==2.0.19
cd "$folder"
cat > export.py <<'PY'
import json
import logging
import os
import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
import supervision as sv
from label_studio_sdk.converter import Converter
from PIL import Image

logging.disable()
os.makedirs("images")
for name in ("a.png", "b.png"):
    Image.new("RGB", (100, 80)).save(f"images/{name}")

def corners(path):
    text = Path(path).read_text()
    return [[int(v) for v in re.findall(r"<[xy]m\w+>(\d+)<", box)] for box in re.findall(r"<bndbox>.*?</bndbox>", text, re.S)]

print("supervision", sv.__version__, "label-studio-sdk", version("label-studio-sdk"))
box = sv.Detections(xyxy=np.array([[10.5, 20.5, 30.5, 40.5]]), class_id=np.array([0]))
sv.DetectionDataset(["cat"], ["images/a.png"], {"images/a.png": box}).as_pascal_voc("sv", "sv")
again = next(iter(sv.DetectionDataset.from_pascal_voc("sv", "sv").annotations.values())).xyxy.tolist()
print("supervision: 10.5 20.5 30.5 40.5 is written as", corners("sv/a.xml"), "and read back as", again)
assert corners("sv/a.xml") == [[12, 22, 30, 40]], "supervision's corners have changed"

results = []
for x, y, w, h in ((10.2, 10.2, 20, 0.7), (33.3, 44.4, 1, 1)):
    value = {"x": x, "y": y / 0.8, "width": w, "height": h / 0.8, "rotation": 0, "rectanglelabels": ["cat"]}
    results.append({"id": f"r{x}", "from_name": "label", "to_name": "image", "type": "rectanglelabels", "original_width": 100, "original_height": 80, "image_rotation": 0, "value": value})
tasks = [
    {"id": i, "data": {"image": os.path.abspath(f"images/{name}")}, "predictions": [],
     "annotations": [{"id": i, "result": own, "was_cancelled": False, "completed_by": {"id": 1}}]}
    for i, (name, own) in enumerate((("a.png", results), ("b.png", [])), start=1)
]
Path("tasks.json").write_text(json.dumps(tasks))
config = '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image"><Label value="cat"/></RectangleLabels></View>'
converter = Converter(config, project_dir="images", download_resources=False)
converter.convert_to_voc("tasks.json", "ls", is_dir=False)
files = sorted(path.name for path in Path("ls/Annotations").iterdir())
print("label-studio-sdk: 10.2 10.2 30.2 10.9 and 33.3 44.4 34.3 45.4 are written as", corners("ls/Annotations/a.xml"), "in", files)
assert corners("ls/Annotations/a.xml") == [[10, 10, 30, 10], [33, 44, 34, 45]], "label-studio-sdk's corners have changed"
assert files == ["a.xml"], "label-studio-sdk now writes images without a box"
PY
venv/bin/python export.py
