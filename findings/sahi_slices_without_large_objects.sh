#!/usr/bin/env bash
# Versions: sahi 0.12.8.
# Behavior: slice_coco with default settings (slices of 512 px, overlap 0.2) of an image of 4000 x 3000 px with a large object
# and one of 40 x 40 px, and with an object of 1500 x 1500 px; then with min_area_ratio=0.
# Output seen, 2026-11-28: parts with less than 10 % of their object's area are left out. A slice has 8 % of an object of
# 1800 x 1800 px, so it is in none of 80 slices, without a message; with min_area_ratio=0 it is in 36. Of an object of 1500 x
# 1500 px, 6 parts are kept and 19 are not. Slices inside the object are images without an object.
# Consequence: whatever is larger than ten slices is lost, and slices full of it are training images of background, beside
# others in which the same class is annotated. Large objects need min_area_ratio=0 or larger slices.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check sahi==0.12.8 numpy==2.4.6
cd "$folder"
cat > slices.py <<'PY'
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image
from sahi.slicing import slice_coco

Path("images").mkdir()
Image.fromarray(np.zeros((3000, 4000), np.uint8)).save("images/a.png")


def slice_objects(sizes, **options):
    """Return the number of slices, the number of them without an object, and the number of parts of each object."""
    boxes = [[400 + 2000 * i, 500, size, size] for i, size in enumerate(sizes)]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 4000, "height": 3000}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": i, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, box in enumerate(boxes, start=1)
        ],
        "categories": [{"id": i, "name": str(i)} for i in range(1, len(boxes) + 1)],
    }
    Path("truth.json").write_text(json.dumps(content))
    sliced, _ = slice_coco("truth.json", "images", "sliced", output_dir=None, **options)
    empty = len(sliced["images"]) - len({a["image_id"] for a in sliced["annotations"]})
    parts = [sum(a["category_id"] == i for a in sliced["annotations"]) for i in range(1, len(boxes) + 1)]
    return len(sliced["images"]), empty, parts


print("sahi", version("sahi"))
results = {}
for sizes in ((1800, 40), (1500,)):
    for options in ({}, {"min_area_ratio": 0}):
        result = slice_objects(sizes, **options)
        results[(*sizes, len(options))] = result
        print(f"objects of {sizes} px, {options}: {result[0]} slices, {result[1]} of them empty, parts {result[2]}")
assert results[1800, 40, 0] == (80, 78, [0, 2]), "a large object is now in slices"
assert results[1800, 40, 1] == (80, 44, [36, 2]), "min_area_ratio=0 has changed"
assert results[1500, 0] == (80, 74, [6]) and results[1500, 1] == (80, 55, [25]), "parts of 1500 px have changed"
PY
venv/bin/python slices.py 2> log.txt || { cat log.txt; exit 1; }
