#!/usr/bin/env bash
# Versions: augly 1.0.0 (numpy 2.4.6, pillow 13.0.0, opencv-python-headless 5.0.0.93).
# Behavior: augly.image.transforms with bboxes, of an image of 80 x 60 with a white rectangle, so the box (30, 20, 46, 31).
# Output seen, 2026-11-28: "this list will be modified in place", says the documentation, but it is not: after HFlip, Crop
# or Resize it has the boxes from before, with and without metadata=[]. Changed boxes are in metadata[-1]["dst_bboxes"].
# These are right for flips, crops, paddings and resizes. Rotate(90) has pixels at (20, 34, 31, 50) and the box at
# (29, 34, 40, 50), Rotate(30) pixels at (17, 7, 36, 23) and the box at (21, 14, 42, 32). An overlay onto a background of
# 100 x 100 has pixels at (65, 57, 78, 66) and the box at (59, 57, 69, 66), since it ignores the aspect ratio.
# Consequence: boxes of all geometric transforms are others than their pixels', without a message, if the list is used as
# documented; of rotations and overlays always.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check augly==1.0.0 numpy==2.4.6 pillow==13.0.0 \
    opencv-python-headless==5.0.0.93
cd "$folder"
cat > transform.py <<'PY'
from importlib.metadata import version

import numpy as np
from augly.image import functional, transforms
from PIL import Image

BOX = (30, 20, 46, 31)
CASES = {
    "HFlip": (transforms.HFlip, {}),
    "Crop": (transforms.Crop, {"x1": 0.25, "y1": 0.2, "x2": 0.9, "y2": 0.9}),
    "Resize": (transforms.Resize, {"width": 160, "height": 120}),
    "Pad": (transforms.Pad, {"w_factor": 0.25, "h_factor": 0.1}),
    "Rotate 90": (transforms.Rotate, {"degrees": 90}),
    "Rotate 30": (transforms.Rotate, {"degrees": 30}),
    "Overlay": (
        transforms.OverlayOntoBackgroundImage,
        {"background_image": Image.new("RGB", (100, 100)), "overlay_size": 0.5},
    ),
}
pixels = np.zeros((60, 80, 3), np.uint8)
pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
image = Image.fromarray(pixels)


def place(image):
    """Return the box of white pixels."""
    rows, columns = np.where(np.asarray(image.convert("L")) > 127)
    return (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)


print("augly", version("augly"))
assert "modified in place" in functional.hflip.__doc__, "the documentation has changed"
distances = {}
for name, (transform, options) in CASES.items():
    listed, alone, metadata = [BOX], [BOX], []
    output = transform(**options)(image, metadata=metadata, bboxes=listed, bbox_format="pascal_voc")
    transform(**options)(image, bboxes=alone, bbox_format="pascal_voc")
    white, moved = place(output), [round(float(x)) for x in metadata[-1]["dst_bboxes"][0]]
    distances[name] = max(abs(a - b) for a, b in zip(white, moved, strict=True))
    print(f"{name}: pixels {white}, list {alone[0]} and {[round(float(x)) for x in listed[0]]}, metadata {moved}")
    assert white != BOX, "pixels did not move"
    assert np.allclose(alone[0], BOX) and np.allclose(listed[0], BOX), "the list is modified now"
assert max(distances[name] for name in ("HFlip", "Crop", "Resize", "Pad")) <= 1, "boxes of metadata have changed"
assert min(distances[name] for name in ("Rotate 90", "Rotate 30", "Overlay")) >= 6, "rotations or overlays have changed"
PY
venv/bin/python transform.py
