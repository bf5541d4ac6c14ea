#!/usr/bin/env bash
# Versions: pylabel 0.1.55 (pandas 2.3.3).
# Behavior: import of a COCO dataset and export to COCO, with an image and a class without objects.
# Output seen, 2026-11-27: for the image without objects, the last annotation is written a second time, with its id; the
# class without objects is not written.
# Consequence: evaluation counts one object twice, and the number of classes changes.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pylabel==0.1.55 pandas==2.3.3
cd "$folder"
cat > export.py <<'PY'
import json
import os
from pathlib import Path

from PIL import Image
from pylabel import importer

os.makedirs("images")
for name in ("a.png", "b.png"):
    Image.new("RGB", (100, 80)).save(f"images/{name}")
content = {
    "images": [{"id": i, "file_name": name, "width": 100, "height": 80} for i, name in enumerate(("a.png", "b.png"), start=1)],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0, "segmentation": []}],
    "categories": [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(("cat", "dog"), start=1)],
}
Path("coco.json").write_text(json.dumps(content))
dataset = importer.ImportCoco(path="coco.json", path_to_images="images", name="a")
dataset.export.ExportToCoco(output_path="out.json")
written = json.loads(Path("out.json").read_text())
annotations = [(a["id"], a["image_id"], a["bbox"]) for a in written["annotations"]]
names = [category["name"] for category in written["categories"]]
print("annotations (id, image, box):", annotations, "classes:", names)
assert len(annotations) == 2 and annotations[0] == annotations[1], "the annotation is no longer written twice"
assert names == ["cat"], "classes without objects are now written"
PY
venv/bin/python export.py 2> log.txt || { cat log.txt; exit 1; }
