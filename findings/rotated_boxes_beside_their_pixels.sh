#!/usr/bin/env bash
# Versions: torch 2.15.0, torchvision 0.29.2.
# Behavior: torchvision.transforms.v2.functional.rotate with expand=True, of an image and of its bounding boxes.
# Output seen, 2026-11-27: an image of 100 x 160 rotated by 30 degrees becomes 168 x 190, and the canvas of its boxes
# 167 x 189; the center of a box is 0.7 px to the left of that of its pixels, and 0.7 px above it.
# Consequence: boxes of rotated images are off by about a pixel, and clamped to a canvas that is not the image's.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cd "$folder"
cat > rotate.py <<'PY'
import torch
import torchvision
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import rotate
from torchvision.tv_tensors import BoundingBoxes

print("torch", torch.__version__, "torchvision", torchvision.__version__)
corners = (70, 45, 90, 55)
image = torch.zeros(1, 100, 160)
image[:, corners[1] : corners[3], corners[0] : corners[2]] = 1
box = BoundingBoxes([corners], format="XYXY", canvas_size=(100, 160), dtype=torch.float32)
rotated = rotate(image, 30, interpolation=InterpolationMode.BILINEAR, expand=True)
rotated_box = rotate(box, 30, expand=True)
# The center of mass of the bright pixels is the center of the rectangle; pixel i covers i to i + 1.
mass = rotated[0] / rotated.sum()
center = [float((mass.sum(axis) * (torch.arange(mass.shape[1 - axis]) + 0.5)).sum()) for axis in (0, 1)]
left, top, right, bottom = rotated_box[0].tolist()
shift = [center[0] - (left + right) / 2, center[1] - (top + bottom) / 2]
print(f"image {tuple(rotated.shape[-2:])}, canvas of the boxes {rotated_box.canvas_size}; pixels minus box: {shift} px")
assert tuple(rotated.shape[-2:]) != rotated_box.canvas_size, "the canvas is now the image's"
assert min(shift) > 0.5, "boxes now lie on their pixels"
PY
venv/bin/python rotate.py
