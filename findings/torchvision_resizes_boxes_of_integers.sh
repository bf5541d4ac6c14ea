#!/usr/bin/env bash
# Versions: torch 2.15.0, torchvision 0.29.2.
# Behavior: torchvision.transforms.v2.functional.resize, of 480 x 480 to 641 x 641, of 2,000 BoundingBoxes with sides of 5
# to 39 pixels: as integers, which annotations often are, and as floats, in three formats.
# Output seen, 2026-11-28: corners of integers are cut off after the resize, those of floats are not: boxes as XYXY move by
# 0.5 px to the left and up. With XYWH, width and height are cut off as well: the right edge moves by 0.9 px. With CXCYWH
# edges move by 0.8 and 1.2 px, since a center between two pixels becomes a whole number before. The mean IoU with the
# exact box is 0.917, 0.886 and 0.838. There is no warning, and each further transform cuts off again.
# Consequence: a detector learns boxes that are shifted, and AP at high thresholds is lower; the same annotations in
# another format give other results. Pass boxes as floats.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cd "$folder"
cat > resize.py <<'PY'
import torch
import torchvision
from torchvision.ops import box_iou
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import BoundingBoxes

print("torch", torch.__version__, "torchvision", torchvision.__version__)
generator = torch.Generator().manual_seed(0)
corners = torch.randint(0, 400, (2000, 2), generator=generator)
sides = torch.randint(5, 40, (2000, 2), generator=generator)
boxes = torch.cat([corners, corners + sides], 1)


def resize(boxes, box_format):
    """Return boxes (N, 4) as corners in float64, which were resized in a format and in their own dtype."""
    boxes = BoundingBoxes(boxes, format="XYXY", canvas_size=(480, 480))
    resized = F.resize(F.convert_bounding_box_format(boxes, new_format=box_format), [641, 641])
    return torch.as_tensor(F.convert_bounding_box_format(resized, new_format="XYXY")).double()


exact = boxes.double() * 641 / 480
expected = {"XYXY": (-0.5, -0.5, 0.917), "XYWH": (-0.5, -0.85, 0.886), "CXCYWH": (-0.8, -1.15, 0.838)}
for box_format, (left, right, overlap) in expected.items():
    floats, integers = resize(boxes.double(), box_format), resize(boxes, box_format)
    shift = (integers - exact).mean(0)
    iou = box_iou(integers, exact).diagonal().mean()
    print(f"{box_format}: mean shift of integers, left, top, right, bottom: {shift.round(decimals=2).tolist()}, mean IoU {iou:.3f}")
    assert torch.allclose(floats, exact), "floats are not exact"
    assert abs(shift[0] - left) < 0.05 and abs(shift[2] - right) < 0.05 and abs(iou - overlap) < 0.005, "integers have changed"
PY
venv/bin/python resize.py
