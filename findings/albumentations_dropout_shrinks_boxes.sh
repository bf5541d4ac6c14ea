#!/usr/bin/env bash
# Versions: albumentations 2.0.8 (numpy 2.4.6, opencv-python-headless 5.0.0.93).
# Behavior: CoarseDropout, Erasing, XYMasking and RandomGridShuffle with a grid of 1 x 1, of a white image with four boxes,
# where the dropped part is a few pixels that no box contains, or nothing.
# Output seen, 2026-11-28: all boxes change. (60, 40, 92, 62) becomes (60, 40, 91, 61), the fractions of (10.25, 20.5,
# 30.75, 40.25) are cut off, and the box of one pixel at (100, 100) moves up by one. Boxes are drawn as a mask whose last
# row and column are lost. PixelDropout, and ConstrainedCoarseDropout, leave boxes as they are.
# Consequence: with p=0.5, half of the training images have boxes that are up to 1 px smaller, 20 % of the area of a box of
# 10 px, and small objects are shifted, though nothing of them was dropped.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check albumentations==2.0.8 numpy==2.4.6 \
    opencv-python-headless==5.0.0.93
cd "$folder"
cat > transform.py <<'PY'
import albumentations as A
import numpy as np

BOXES = [(60, 40, 92, 62), (10.25, 20.5, 30.75, 40.25), (100, 100, 101, 101), (100.5, 50, 102, 52.4)]
HOLE = {"hole_height_range": (2, 2), "hole_width_range": (2, 2)}
SHRINKING = (
    A.CoarseDropout(num_holes_range=(1, 1), **HOLE, p=1),
    A.Erasing(scale=(0.0005, 0.0006), p=1),
    A.XYMasking(num_masks_x=(1, 1), num_masks_y=(0, 0), mask_x_length=2, p=1),
    A.RandomGridShuffle(grid=(1, 1), p=1),
)
image = np.full((120, 160, 3), 255, np.uint8)


def transform(own):
    """Return the boxes for a seed with which no box contains a dropped pixel."""
    for seed in range(1000):
        parameters = A.BboxParams("pascal_voc", label_fields=["labels"])
        pipeline = A.Compose([own], bbox_params=parameters, seed=seed)
        output = pipeline(image=image.copy(), bboxes=BOXES, labels=list(range(len(BOXES))))
        dropped = (output["image"] < 255).any(axis=2)
        if not any(dropped[int(y) : int(b) + 1, int(x) : int(r) + 1].any() for x, y, r, b in BOXES):
            return [tuple(round(float(v), 2) for v in box) for box in output["bboxes"]], int(dropped.sum())
    raise AssertionError("no seed found")


print("albumentations", A.__version__)
expected = [(60, 40, 91, 61), (10, 20, 30, 40), (100, 99, 101, 100), (100, 49, 101, 52)]
for own in SHRINKING:
    boxes, dropped = transform(own)
    print(f"{type(own).__name__}, {dropped} pixels dropped: {boxes}")
    assert boxes == expected, "boxes are others"
boxes, _ = transform(A.PixelDropout(dropout_prob=0.0005, p=1))
print(f"PixelDropout: {boxes}")
assert boxes == BOXES, "PixelDropout has changed"
PY
NO_ALBUMENTATIONS_UPDATE=1 venv/bin/python transform.py
