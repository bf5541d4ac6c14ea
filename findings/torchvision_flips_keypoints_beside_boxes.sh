#!/usr/bin/env bash
# Versions: torch 2.15.0, torchvision 0.29.2.
# Behavior: torchvision.transforms.v2 of a box and of KeyPoints at its four corners, through flips, rotations and a resize.
# Output seen, 2026-11-28: flips move keypoints to width - 1 - x, as indices of pixels, and boxes to width - x, as
# coordinates, so corners are 1 px beside their box. All other transforms treat keypoints as coordinates: they stay
# at the corners, also after rotate(180), which is both flips; after both flips they are 1 px beside those of rotate(180).
# In an image of 160 px that is resized to 1280, a flip before the resize is 8 px from a flip after it.
# Consequence: with RandomHorizontalFlip, half of the keypoints are off by a pixel from the others, more if small images
# are enlarged afterwards, and a box around keypoints is another one after a flip.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cd "$folder"
cat > flip.py <<'PY'
import torch
import torchvision
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import BoundingBoxes, KeyPoints

SIZE = (120, 160)
print("torch", torch.__version__, "torchvision", torchvision.__version__)
box = BoundingBoxes(torch.tensor([[30.0, 10, 45, 21]]), format="XYXY", canvas_size=SIZE)
points = KeyPoints(torch.tensor([[30.0, 10], [45, 21], [30, 21], [45, 10]]), canvas_size=SIZE)
transforms = {
    "horizontal_flip": F.horizontal_flip,
    "vertical_flip": F.vertical_flip,
    "both flips": lambda x: F.vertical_flip(F.horizontal_flip(x)),
    "rotate(180)": lambda x: F.rotate(x, 180),
    "rotate(90)": lambda x: F.rotate(x, 90, expand=True),
    "affine": lambda x: F.affine(x, 0, [5, 3], 0.5, [0, 0]),
    "resize": lambda x: F.resize(x, [960, 1280]),
    "flip, resize": lambda x: F.resize(F.horizontal_flip(x), [960, 1280]),
    "resize, flip": lambda x: F.horizontal_flip(F.resize(x, [960, 1280])),
}
beside = {}
for name, transform in transforms.items():
    moved = transform(points)
    around = torch.cat([moved.min(0).values, moved.max(0).values])
    beside[name] = (around - transform(box)[0]).round(decimals=2).tolist()
    print(f"{name}: box {[round(x, 2) for x in transform(box)[0].tolist()]}, corners beside it by {beside[name]}")
expected = {name: [0.0] * 4 for name in transforms} | {
    "horizontal_flip": [-1.0, 0, -1, 0],
    "vertical_flip": [0.0, -1, 0, -1],
    "both flips": [-1.0] * 4,
    "flip, resize": [-8.0, 0, -8, 0],
    "resize, flip": [-1.0, 0, -1, 0],
}
assert beside == expected, "keypoints have changed"
PY
venv/bin/python flip.py
