#!/usr/bin/env bash
# Versions: supervision 0.31.2, sahi 0.12.8, imantics 0.1.12, pycocotools 2.0.11 (opencv-python-headless 4.14.0.94).
# Behavior: a mask of a square becomes polygons by supervision, SAHI and imantics, and a mask again by pycocotools, as COCO's
# evaluation does; and masks of one and two rows.
# Output seen, 2026-11-28: the polygons, contours of OpenCV, pass through the centers of pixels, and COCO's through their
# edges, so the lower row and the right column are lost: 4 x 4 px become 3 x 3 (IoU 0.56), 10 x 10 become 9 x 9 (0.81), 32
# x 32 become 31 x 31 (0.94), and two rows one. supervision and SAHI return no polygon for a mask of one row, or of two
# pixels, without a message. supervision's own polygon_to_mask, which is OpenCV's, returns the mask as it was.
# Consequence: ground truth or detections that were saved as polygons of masks have a mask AP that is lower, most for small
# objects, though a round trip in the same tool is exact. Write RLE.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check supervision==0.31.2 sahi==0.12.8 imantics==0.1.12 \
    pycocotools==2.0.11 opencv-python-headless==4.14.0.94
cd "$folder"
cat > polygons.py <<'PY'
from importlib.metadata import version

import imantics
import numpy as np
import supervision
from pycocotools import mask as rle
from sahi.utils.cv import get_coco_segmentation_from_bool_mask

SIZE = (60, 80)
tools = {
    "supervision": lambda mask: [polygon.ravel().tolist() for polygon in supervision.mask_to_polygons(mask)],
    "sahi": get_coco_segmentation_from_bool_mask,
    "imantics": lambda mask: [list(polygon) for polygon in imantics.Mask(mask).polygons().segmentation],
}


def rectangle(height, width):
    mask = np.zeros(SIZE, bool)
    mask[10 : 10 + height, 20 : 20 + width] = True
    return mask


def rasterize(polygons):
    return rle.decode(rle.merge(rle.frPyObjects([[float(x) for x in polygon] for polygon in polygons], *SIZE))).astype(bool)


for name in (*tools, "pycocotools"):
    print(name, version(name), end=" ")
print()
for height, width in ((4, 4), (10, 10), (32, 32), (2, 20)):
    mask = rectangle(height, width)
    for name, polygons in tools.items():
        back = rasterize(polygons(mask))
        overlap = (back & mask).sum() / (back | mask).sum()
        print(f"{height} x {width} px, {name}: polygons {polygons(mask)}, area {mask.sum()} to {back.sum()}, IoU {overlap:.3f}")
        assert np.array_equal(back, rectangle(height - 1, width - 1)), f"{name} has changed"
    own = sum(supervision.polygon_to_mask(polygon, SIZE[::-1]) for polygon in supervision.mask_to_polygons(mask)) > 0
    assert np.array_equal(own, mask), "supervision's own round trip has changed"
for height, width in ((1, 20), (1, 2)):
    counts = {name: len(tools[name](rectangle(height, width))) for name in ("supervision", "sahi")}
    print(f"{height} x {width} px: number of polygons {counts}")
    assert set(counts.values()) == {0}, "masks of one row have changed"
PY
venv/bin/python polygons.py
