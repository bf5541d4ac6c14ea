#!/usr/bin/env bash
# Versions: pycocotools 2.0.11, faster-coco-eval 1.8.0, hotcoco 1.3.0 (numpy 2.4.6).
# Behavior: frPyObjects of each tool, of polygons with four corners: as lists, as a list of arrays, and as one array with a row
# of x1, y1, ..., x4, y4 for each polygon, in which slanted boxes and text regions are often kept.
# Output seen, 2026-11-28: pycocotools and faster-coco-eval read an array as boxes (x, y, width, height), without a message. The
# polygon (10, 10), (30, 12), (28, 40), (8, 38) becomes the box 10, 10, 30, 12. faster-coco-eval takes the first four numbers of
# each row; pycocotools every four in memory, so the second mask is made of the second half of the first polygon.
# Lists of lists and of arrays are right in all, and arrays in hotcoco.
# Right value: half the cross products of successive corners is the area, 564 px2 for this polygon.
# Consequence: masks are upright rectangles elsewhere, here of IoU 0.31 with the right one, so objects that were found count as
# missed; another evaluator gives another mask AP for the same arrays. Pass polygons.tolist().
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pycocotools==2.0.11 faster-coco-eval==1.8.0 \
    hotcoco==1.3.0 numpy==2.4.6
cd "$folder"
cat > rasterize.py <<'PY'
from importlib.metadata import version

import faster_coco_eval.core.mask
import hotcoco
import numpy as np
import pycocotools.mask

SIZE = (60, 80)
POLYGONS = np.array([[10.0, 10, 30, 12, 28, 40, 8, 38], [50, 5, 60, 5, 60, 20, 50, 20]])
TOOLS = {"pycocotools": pycocotools.mask, "faster-coco-eval": faster_coco_eval.core.mask, "hotcoco": hotcoco.mask}
WRONG = {
    "pycocotools": ([[10, 10, 30, 12], [28, 40, 8, 20]], [360, 160]),
    "faster-coco-eval": ([[10, 10, 30, 12], [50, 5, 30, 5]], [360, 150]),  # the second box ends at the edge of the image
}


def area(polygon):
    """Return the area by the cross products of successive corners."""
    x, y = polygon.reshape(-1, 2).T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


print(*(f"{name} {version(name)}" for name in TOOLS))
expected = [float(area(polygon)) for polygon in POLYGONS]
overlaps = {}
for name, tool in TOOLS.items():
    for kind, polygons in {"lists": POLYGONS.tolist(), "arrays": list(POLYGONS), "one array": POLYGONS}.items():
        masks = tool.frPyObjects(polygons, *SIZE)
        boxes, areas = [tool.toBbox(mask).tolist() for mask in masks], [int(tool.area(mask)) for mask in masks]
        print(f"{name}, {kind}: boxes {boxes}, areas {areas}, expected {expected}")
        if kind == "one array" and name in WRONG:
            assert (boxes, areas) == WRONG[name], "arrays have changed"
        else:
            assert areas == expected, "lists of polygons, or hotcoco, have changed"
    right, other = (tool.frPyObjects(polygons, *SIZE)[0] for polygons in (POLYGONS.tolist(), POLYGONS))
    overlaps[name] = round(float(tool.iou([other], [right], [0])[0][0]), 2)
print("IoU of the first polygon in an array with the same in a list:", overlaps)
assert overlaps["pycocotools"] == overlaps["faster-coco-eval"] == 0.31 and overlaps["hotcoco"] == 1, "the IoU has changed"
PY
venv/bin/python rasterize.py
