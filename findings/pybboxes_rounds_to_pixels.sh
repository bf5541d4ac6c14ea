#!/usr/bin/env bash
# Versions: pybboxes 0.2.0 (numpy 1.24.2).
# Behavior: pybboxes.convert_bbox of boxes in fractions of pixels between formats, in an image of 640 x 480 px.
# Output seen, 2026-11-28: every conversion passes through corners of whole pixels, halves to the even one, also between
# formats that both have fractions. In COCO, (10.5, 20.5, 3, 4) becomes YOLO's box of (10, 20, 13, 24), half a pixel beside; a
# box in YOLO's format of 4.4 x 4.4 px becomes 4 x 4 px, 4 x 5, 5 x 4 or 5 x 5, depending on its place. One of 0.4 x 0.4 px
# raises an error.
# Right value: YOLO's box is the center and size over the size of the image, so 3 / 640 and 4 / 480 here.
# Consequence: objects move by up to half a pixel, and sizes change by up to one; IoU with the original falls to 0.57 for
# 3 x 4 px (8.75 of 15.25 px2 are common), which is below eight of COCO's ten thresholds. It cannot be undone.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pybboxes==0.2.0 numpy==1.24.2
cd "$folder"
cat > convert.py <<'PY'
from importlib.metadata import version

import numpy as np
from pybboxes import convert_bbox

SIZE = (640, 480)


def pixels(yolo):
    """Return the corners of a box in YOLO's format, in pixels."""
    x, y, w, h = np.array(yolo) * [*SIZE, *SIZE]
    return np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])


def iou(a, b):
    overlap = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return overlap / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - overlap)


print("pybboxes", version("pybboxes"))
x, y, w, h = box = (10.5, 20.5, 3.0, 4.0)
expected = np.array([(x + w / 2) / SIZE[0], (y + h / 2) / SIZE[1], w / SIZE[0], h / SIZE[1]])
yolo = convert_bbox(box, from_type="coco", to_type="yolo", image_size=SIZE)
overlap = iou(pixels(yolo), pixels(expected))
back = convert_bbox(yolo, from_type="yolo", to_type="coco", image_size=SIZE)
print("COCO", box, "to YOLO, in pixels:", pixels(yolo).round(6), "expected:", pixels(expected), "IoU", overlap, "back:", back)
assert np.allclose(pixels(yolo), [10, 20, 13, 24]) and back == (10, 20, 3, 4), "fractions have changed"
assert np.isclose(overlap, 8.75 / 15.25)
sizes = set()
for i in range(50):
    place = (0.3 + 0.13 * i / SIZE[0], 0.4 + 0.29 * i / SIZE[1], 4.4 / SIZE[0], 4.4 / SIZE[1])
    sizes.add(tuple(int(n) for n in convert_bbox(place, from_type="yolo", to_type="coco", image_size=SIZE)[2:]))
print("4.4 x 4.4 px of YOLO in COCO:", sorted(sizes))
assert sizes == {(4, 4), (4, 5), (5, 4), (5, 5)}, "sizes have changed"
exact = convert_bbox((10, 20, 3, 4), from_type="coco", to_type="yolo", image_size=SIZE)
assert np.allclose(pixels(exact), [10, 20, 13, 24]), "boxes of whole pixels have changed"
try:
    convert_bbox((0.5, 0.5, 0.4 / SIZE[0], 0.4 / SIZE[1]), from_type="yolo", to_type="coco", image_size=SIZE)
except ValueError as error:
    print("0.4 x 0.4 px:", error)
else:
    raise AssertionError("tiny boxes are converted now")
PY
venv/bin/python convert.py
