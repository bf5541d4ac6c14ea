#!/usr/bin/env bash
# Versions: datumaro 1.13.12.
# Behavior: an export of CVAT (CVAT for images 1.1) with a rectangle, a polygon and a mask, read by Datumaro and exported to
# YOLO, Pascal VOC (detection) and COCO, as it is and after the transform shapes_to_boxes.
# Output seen, 2026-11-28: YOLO's and VOC's files have the rectangle only: polygons and masks are not written, without a
# message, and the image seems complete. COCO has all three. After shapes_to_boxes, YOLO and VOC have three boxes.
# Consequence: a dataset that was annotated with polygons becomes one of images without objects, or with some of them, which
# a detector is then trained on as background. Transform shapes to boxes before the export, or use COCO.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check datumaro==1.13.12 opencv-python-headless==4.14.0.94
cd "$folder"
cat > export.py <<'PY'
import json
import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
from datumaro.components.dataset import Dataset
from PIL import Image

CVAT = """<annotations><version>1.1</version><meta><task><labels>
<label><name>cat</name><type>any</type></label></labels></task></meta>
<image id="0" name="a.jpg" width="100" height="80">
<box label="cat" occluded="0" xtl="60" ytl="10" xbr="80" ybr="30" z_order="0"></box>
<polygon label="cat" occluded="0" points="10,10;40,10;40,40;10,40" z_order="0"></polygon>
<mask label="cat" occluded="0" rle="0, 400" left="30" top="50" width="20" height="20" z_order="0"></mask>
</image></annotations>"""

Path("cvat/images").mkdir(parents=True)
Path("cvat/annotations.xml").write_text(CVAT)
Image.fromarray(np.zeros((80, 100, 3), np.uint8)).save("cvat/images/a.jpg")
print("datumaro", version("datumaro"))
counts = {}
for name, transforms in {"as it is": (), "shapes_to_boxes": ("shapes_to_boxes",)}.items():
    dataset = Dataset.import_from("cvat", "cvat")
    kinds = [type(annotation).__name__ for item in dataset for annotation in item.annotations]
    assert kinds == ["Bbox", "Polygon", "Mask"], "the import has changed"
    for transform in transforms:
        dataset.transform(transform)
    folder = Path(name)
    for target in ("yolo", "voc_detection", "coco_instances"):
        dataset.export(str(folder / target), target, save_media=True)
    (labels,) = (path for path in (folder / "yolo").rglob("a.txt"))
    (coco,) = (folder / "coco_instances").rglob("*.json")
    counts[name] = [
        len(labels.read_text().strip().splitlines()),
        len(re.findall("<object>", (folder / "voc_detection/Annotations/a.xml").read_text())),
        len(json.loads(coco.read_text())["annotations"]),
    ]
    print(f"three objects, {name}: YOLO, VOC, COCO have {counts[name]}")
log = Path("log.txt").read_text()
assert counts["as it is"] == [1, 1, 3], "polygons or masks are now written"
assert counts["shapes_to_boxes"][:2] == [3, 3], "shapes_to_boxes has changed"
assert "olygon" not in log and "ask" not in log, "there is a message now"
PY
venv/bin/python export.py 2> log.txt || { cat log.txt; exit 1; }
