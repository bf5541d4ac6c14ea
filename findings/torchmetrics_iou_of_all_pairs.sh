#!/usr/bin/env bash
# Versions: torchmetrics 1.9.0 (torch 2.15.0, torchvision 0.29.2).
# Behavior: torchmetrics.detection's IntersectionOverUnion, and its generalized, distance and complete forms, with default
# settings, of detections that are equal to the objects of an image.
# Output seen, 2026-11-28: the mean is taken over all pairs of a detection and an object of one class, not over matched
# ones: detections equal to n objects apart have an IoU of 1/n, 0.1 for ten, and GIoU is -0.74. With
# iou_threshold=0.5 it is 1, also where nine of ten objects are missed. An object of a class without detections is not
# counted: one found of two classes is 1.
# Consequence: the number mostly says how many objects images have; it falls if a detector finds more of them. Images with
# one object are the only ones that it is right for.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 \
    torchmetrics==1.9.0 numpy==2.4.6
cd "$folder"
cat > measure.py <<'PY'
import torch
import torchmetrics
from torchmetrics import detection


def measure(name, labels, found, **options):
    """Return the metric of an image with an object of each label, of which the first ones are found exactly."""
    corner = 20.0 * torch.arange(len(labels))[:, None]
    boxes = torch.cat([corner, corner, corner + 10, corner + 10], dim=1)
    labels = torch.tensor(labels)
    detections = {"boxes": boxes[:found], "labels": labels[:found], "scores": torch.ones(found)}
    metric = getattr(detection, name)(**options)
    metric.update([detections], [{"boxes": boxes, "labels": labels}])
    (value,) = metric.compute().values()
    return round(float(value), 3)


print("torchmetrics", torchmetrics.__version__)
iou = "IntersectionOverUnion"
equal = {n: measure(iou, [0] * n, n) for n in (1, 2, 4, 10)}
print("detections equal to n objects of a class:", equal)
others = {f"{kind}{iou}": measure(f"{kind}{iou}", [0] * 10, 10) for kind in ("Generalized", "Distance", "Complete")}
print("10 objects:", others)
thresholds = {found: measure(iou, [0] * 10, found, iou_threshold=0.5) for found in (1, 10)}
print("iou_threshold=0.5, number found of 10:", thresholds)
apart = measure(iou, [0, 1], 1)
print("one found of two objects of different classes:", apart)
assert equal == {1: 1.0, 2: 0.5, 4: 0.25, 10: 0.1}, "the mean over pairs has changed"
assert all(value < 0.1 for value in others.values()), "the other forms have changed"
assert thresholds == {1: 1.0, 10: 1.0} and apart == 1.0, "missed objects are counted now"
PY
venv/bin/python measure.py
