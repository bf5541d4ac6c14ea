#!/usr/bin/env bash
# Versions: sahi 0.12.8, pylabel 0.1.55 (pandas 2.3.3).
# Behavior: export to YOLO of a COCO dataset whose category ids count from 1, as COCO's do.
# Output seen, 2026-11-27: SAHI and PyLabel write the category ids as class numbers (1 for cat, 2 for dog), and the names
# as a list, whose numbers count from 0: class 1 is named dog, and class 2 has no name, or that of the next class.
# Consequence: every object has the name of the next class. Where the last class has no object, nothing fails.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check sahi==0.12.8 pylabel==0.1.55 pandas==2.3.3
cd "$folder"
cat > export.py <<'PY'
import json
import os
from pathlib import Path

import yaml
from PIL import Image
from pylabel import importer
from sahi.utils.coco import Coco

os.makedirs("images")
Image.new("RGB", (100, 80)).save("images/a.png")
names = ["cat", "dog", "hen"]
box = {"bbox": [10, 20, 30, 40], "area": 1200, "iscrowd": 0, "segmentation": []}
content = {
    "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}],
    "annotations": [{"id": i, "image_id": 1, "category_id": i} | box for i in (1, 2)],
    "categories": [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(names, start=1)],
}
Path("coco.json").write_text(json.dumps(content))

dataset = Coco.from_coco_dict_or_path("coco.json", image_dir="images")
dataset.export_as_yolo("sahi", train_split_rate=1, disable_symlink=True)
dataset = importer.ImportCoco(path="coco.json", path_to_images="images", name="a")
dataset.export.ExportToYoloV5(output_path="pylabel/labels", yaml_file="data.yaml")

results = {}
for tool, labels, config in (("sahi", "sahi/train/a.txt", "sahi/data.yml"), ("pylabel", "pylabel/labels/a.txt", "pylabel/data.yaml")):
    numbers = sorted(int(line.split()[0]) for line in Path(labels).read_text().splitlines())
    listed = yaml.safe_load(Path(config).read_text())["names"]
    results[tool] = [listed[n] if n < len(listed) else None for n in numbers]
    print(f"{tool}: class numbers {numbers}, names {listed}: the objects are {results[tool]}, and were ['cat', 'dog']")
assert results["sahi"] == ["dog", "hen"], "SAHI's class numbers have changed"
assert results["pylabel"] == ["dog", None], "PyLabel's class numbers have changed"
PY
venv/bin/python export.py 2> log.txt || { cat log.txt; exit 1; }
