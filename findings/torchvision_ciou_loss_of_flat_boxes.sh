#!/usr/bin/env bash
# Versions: torch 2.15.0, torchvision 0.29.2.
# Behavior: torchvision.ops' losses complete_box_iou_loss, distance_box_iou_loss and generalized_box_iou_loss and their
# gradients, of predicted boxes next to a ground truth of 10 x 10 px, where the prediction has a height, a width, or both of 0,
# as clipping to the image gives for an object at its lower edge.
# Output seen, 2026-11-28: with a height of 0, the CIoU loss is finite, 1.206, and its gradient is NaN in all four
# coordinates: the aspect ratio is atan(width / height), whose derivative is 0 times infinity. With both 0, the loss is NaN as
# well. A width of 0 is finite, so are the other two losses.
# Right value: if x and y are exchanged, angles change their sign and the loss stays, so the gradient of 5 x 0 px is that of
# 0 x 5 px with x and y exchanged. atan2(width, height), whose derivatives are finite, gives this in float64.
# Consequence: one flat prediction makes all weights NaN in the next step, while the loss of this step looks normal; whether
# the image is upright or rotated by 90 degrees decides on it.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cd "$folder"
cat > flat.py <<'PY'
import math

import torch
import torchvision
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

TRUTH = torch.tensor([[0.0, 0.0, 10.0, 10.0]])


def value_and_gradient(loss, box, dtype=torch.float32):
    box = torch.tensor([box], dtype=dtype, requires_grad=True)
    value = loss(box, TRUTH.to(dtype)).sum()
    (gradient,) = torch.autograd.grad(value, box)
    return value.item(), gradient[0].tolist()


def ciou_by_atan2(boxes, truths):
    """Return 1 - IoU + distance of the centers + aspect ratio, whose weight has no gradient, as in the paper."""
    sides, other = (b[:, 2:] - b[:, :2] for b in (boxes, truths))
    overlap = (torch.min(boxes, truths)[:, 2:] - torch.max(boxes, truths)[:, :2]).clamp(min=0).prod(1)
    iou = overlap / (sides.prod(1) + other.prod(1) - overlap)
    hull = torch.max(boxes, truths)[:, 2:] - torch.min(boxes, truths)[:, :2]
    apart = (boxes[:, :2] + boxes[:, 2:] - truths[:, :2] - truths[:, 2:]).square().sum(1) / 4 / hull.square().sum(1)
    angle = torch.atan2(sides[:, 0], sides[:, 1]) - torch.atan2(other[:, 0], other[:, 1])
    aspect = 4 / math.pi**2 * angle.square()
    return 1 - iou + apart + (aspect / (1 - iou + aspect)).detach() * aspect


print("torch", torch.__version__, "torchvision", torchvision.__version__)
results = {}
for name, box in {"height 0": [0, 0, 5.0, 0], "width 0": [0, 0, 0, 5.0], "both 0": [0, 0, 0, 0.0]}.items():
    for loss in (complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss):
        value, gradient = results[name, loss] = value_and_gradient(loss, box)
        print(f"{name}, {loss.__name__}: {value:.4f}, gradient {[round(g, 4) for g in gradient]}")
        expected = loss is complete_box_iou_loss and name != "width 0"
        assert all(math.isnan(g) == expected for g in gradient), "gradients have changed"
        assert math.isnan(value) == (loss is complete_box_iou_loss and name == "both 0"), "losses have changed"
value, gradient = value_and_gradient(ciou_by_atan2, [0, 0, 5.0, 0], torch.float64)
other_value, other = results["width 0", complete_box_iou_loss]
exchanged = [other[i] for i in (1, 0, 3, 2)]
print("height 0 by atan2:", value, gradient, "width 0, x and y exchanged:", other_value, exchanged)
assert math.isclose(value, results["height 0", complete_box_iou_loss][0], abs_tol=1e-5)
assert math.isclose(value, other_value, abs_tol=1e-5)
assert all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(gradient, exchanged, strict=True))
PY
venv/bin/python -W ignore flat.py
