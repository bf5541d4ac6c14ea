#!/usr/bin/env bash
# Versions: torch 2.15.0, torchvision 0.29.2, pycocotools 2.0.11.
# Behavior: torchvision.ops.masks_to_boxes of masks of rectangles, next to pycocotools' boxes of the same masks, and through
# torchvision's own functions: box_area, box_iou, a flip, and SanitizeBoundingBoxes.
# Output seen, 2026-11-28: the right and lower edges are the indices of the last pixels, so a mask of 10 x 10 px has a box of 9
# x 9, with IoU 0.81; 4 x 4 px are 3 x 3 (0.56). A mask of one row has the area 0, and SanitizeBoundingBoxes removes it. A mask
# of the upper left pixel has the box of an empty mask, (0, 0, 0, 0). After a flip, the box is 1 px beside that of the mask.
# Right value: pixels in columns 3 to 6 cover the coordinates 3 to 7, as pycocotools and all of torchvision's box functions
# have it, for which a width is x2 - x1: box_area has to be the number of pixels of a rectangle.
# Consequence: a detector that is trained on boxes from masks, as in torchvision's tutorial, learns boxes that are 1 px too
# small, and objects of one row are lost; evaluated with COCO's boxes, AP of small objects is lower. Add 1 to x2 and y2.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 \
    pycocotools==2.0.11 numpy==2.4.6
cd "$folder"
cat > boxes.py <<'PY'
import numpy as np
import torch
import torchvision
from pycocotools import mask as coco_mask
from torchvision import tv_tensors
from torchvision.ops import box_area, box_iou, masks_to_boxes
from torchvision.transforms import v2


def rectangle(x, y, width, height):
    mask = torch.zeros(1, 40, 60, dtype=torch.uint8)
    mask[0, y : y + height, x : x + width] = 1
    return mask


def coco_box(mask):
    x, y, w, h = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask[0].numpy())))
    return torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32)


print("torch", torch.__version__, "torchvision", torchvision.__version__)
for side, expected in ((4, 9 / 16), (10, 0.81), (32, 31**2 / 32**2)):
    mask = rectangle(3, 2, side, side)
    box, exact = masks_to_boxes(mask), coco_box(mask)
    assert exact.tolist() == [[3, 2, 3 + side, 2 + side]] and box_area(exact) == mask.sum()
    print(f"{side} x {side} px:", box.tolist(), "pycocotools", exact.tolist(), "IoU", box_iou(box, exact).item())
    assert box.tolist() == [[3, 2, 2 + side, 1 + side]] and np.isclose(box_iou(box, exact).item(), expected), "boxes have changed"
row, corner, empty = (masks_to_boxes(mask) for mask in (rectangle(5, 7, 20, 1), rectangle(0, 0, 1, 1), rectangle(0, 0, 0, 0)))
print("a row:", row.tolist(), "the upper left pixel:", corner.tolist(), "nothing:", empty.tolist())
assert box_area(row) == 0 and torch.equal(corner, empty), "boxes of a row or a pixel have changed"


def sanitized(box):
    boxes = tv_tensors.BoundingBoxes(box, format="XYXY", canvas_size=(40, 60))
    return len(v2.SanitizeBoundingBoxes(labels_getter=None)({"boxes": boxes})["boxes"])


print("kept boxes of a row:", sanitized(row), "pycocotools", sanitized(coco_box(rectangle(5, 7, 20, 1))))
assert sanitized(row) == 0 and sanitized(coco_box(rectangle(5, 7, 20, 1))) == 1, "sanitizing has changed"
mask = rectangle(3, 2, 10, 10)
flipped = v2.functional.horizontal_flip(tv_tensors.BoundingBoxes(masks_to_boxes(mask), format="XYXY", canvas_size=(40, 60)))
of_flipped = masks_to_boxes(v2.functional.horizontal_flip(tv_tensors.Mask(mask)))
print("box of the mask, then flipped:", flipped.tolist(), "box of the flipped mask:", of_flipped.tolist())
assert (flipped - of_flipped).tolist() == [[1, 0, 1, 0]], "flips have changed"
PY
venv/bin/python -W ignore boxes.py
