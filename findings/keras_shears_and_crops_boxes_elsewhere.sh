#!/usr/bin/env bash
# Versions: keras 3.15.1 (backend numpy, which needs jax 0.10.2; numpy 2.4.6, scipy 1.17.1).
# Behavior: RandomShear, RandomRotation and RandomCrop of keras.layers with bounding_box_format="xyxy", fill_mode="constant" and
# fixed factors, of a white rectangle and its box (40, 30, 60, 50), in images of 160 x 90, 90 x 160 and 160 x 160 px.
# Output seen, 2026-11-29: RandomShear of the image uses pixels, and that of its boxes fractions of width and height, so with a
# factor of 0.3 in x, pixels are at 49 to 75, and the box is at 56 to 86.7 in 160 x 90 and at 45.1 to 68.4 in 90 x 160. With
# factors in both directions, boxes are beside in square images as well, 7 px here. RandomRotation by 90 degrees and by 180 has
# the box 1 px beside. RandomCrop to 120 x 70 moves x by the offset of y and the reverse; to 200 x 200, the image is resized,
# and its box is not. Flips, RandomTranslation and CenterCrop are right. There is no message.
# Right value: a box of a rectangle has to enclose its pixels; one that moves by whole pixels, or becomes a parallelogram whose
# corners are those of the box, has the bounds of its pixels to within 1 px. In images of 160 x 160, one factor is right.
# Consequence: a detector learns boxes that miss their objects, more so in wide or tall images, and all of them after
# RandomCrop. Images look right, and losses still fall. Draw boxes after each layer, or crop and shear before Keras.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check keras==3.15.1 jax==0.10.2 numpy==2.4.6 scipy==1.17.1
cd "$folder"
cat > layers.py <<'PY'
import os

os.environ["KERAS_BACKEND"] = "numpy"

import keras
import numpy as np
from keras import layers

BOX = (40, 30, 60, 50)
WIDE, TALL, SQUARE = (160, 90), (90, 160), (160, 160)


def compare(layer, size, **options):
    """Return the bounds of the white pixels and the box, after the layer."""
    width, height = size
    x1, y1, x2, y2 = BOX
    image = np.zeros((1, height, width, 3), np.float32)
    image[0, y1:y2, x1:x2] = 255
    boxes = {"boxes": np.array([[BOX]], np.float32), "labels": np.ones((1, 1), np.float32)}
    layer = layer(bounding_box_format="xyxy", **options)
    result = layer({"images": image, "bounding_boxes": boxes}, training=True)
    rows, columns = np.where(np.asarray(result["images"])[0, :, :, 0] > 127)
    pixels = [int(value) for value in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
    box = [round(float(value), 1) for value in np.asarray(result["bounding_boxes"]["boxes"])[0, 0]]
    return pixels, box


def shear(x, y, size):
    factors = {name: (value, value + 1e-6) if value else 0.0 for name, value in (("x_factor", x), ("y_factor", y))}
    return compare(layers.RandomShear, size, fill_mode="constant", seed=0, **factors)


def show(name, size, seen):
    pixels, box = seen
    beside = max(abs(a - b) for a, b in zip(pixels, box, strict=True))
    print(f"{name}, {size[0]} x {size[1]} px: pixels {pixels}, box {box}, {beside:.1f} px beside")
    return beside


print("keras", keras.__version__, keras.backend.backend())
for size in (SQUARE, WIDE, TALL):
    for x, y in ((0.3, 0), (0, 0.3), (0.3, 0.3)):
        beside = show(f"shear {x} {y}", size, shear(x, y, size))
        right = size == SQUARE and 0 in (x, y)
        assert beside < 1.1 if right else beside > 4, "RandomShear has changed"
assert shear(0.3, 0, WIDE) == ([49, 30, 75, 50], [56.0, 30.0, 86.7, 50.0]), "RandomShear of wide images has changed"
assert shear(0.3, 0, TALL)[1] == [45.1, 30.0, 68.4, 50.0], "RandomShear of tall images has changed"
for turn in (0.25, 0.5):
    seen = compare(layers.RandomRotation, WIDE, factor=(turn, turn), fill_mode="constant")
    assert show(f"rotation by {turn * 360:g} degrees", WIDE, seen) == 1, "RandomRotation has changed"
for mode in ("horizontal", "vertical"):
    flipped = [compare(layers.RandomFlip, WIDE, mode=mode, seed=seed) for seed in range(8)]
    assert max(show(f"{mode} flip", WIDE, seen) for seen in flipped) == 0, "RandomFlip has changed"
    assert any(pixels != list(BOX) for pixels, _ in flipped), "no image was flipped"
options = {"height_factor": (0.1, 0.1), "width_factor": (0.2, 0.2), "fill_mode": "constant"}
assert show("translation", WIDE, compare(layers.RandomTranslation, WIDE, **options)) == 0, "RandomTranslation has changed"
assert show("center crop", WIDE, compare(layers.CenterCrop, WIDE, height=70, width=120)) == 0, "CenterCrop has changed"
swapped = 0
for seed in range(6):
    pixels, box = seen = compare(layers.RandomCrop, WIDE, height=70, width=120, seed=seed)
    show("crop", WIDE, seen)
    x, y = BOX[0] - pixels[0], BOX[1] - pixels[1]
    assert box == [max(value - offset, 0) for value, offset in zip(BOX, (y, x, y, x), strict=True)], "RandomCrop has changed"
    swapped += x != y
assert swapped >= 5, "the offsets are equal"
pixels, box = seen = compare(layers.RandomCrop, WIDE, height=200, width=200)
show("crop to 200 x 200", WIDE, seen)
assert pixels[2] - pixels[0] > 30 and box[2] - box[0] == 20, "RandomCrop that resizes has changed"
PY
venv/bin/python layers.py
