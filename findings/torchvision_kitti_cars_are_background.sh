#!/usr/bin/env bash
# Versions: torch 2.15.0, torchvision 0.29.2, pycocotools 2.0.11.
# Behavior: Kitti and CocoDetection of torchvision.datasets, through its wrap_dataset_for_transforms_v2, as targets of its Faster
# R-CNN: a KITTI image with a car, one with a van and one with a DontCare region, and COCO images with an object, with a
# crowd region, and with nothing.
# Output seen, 2026-11-29: KITTI's labels count from 0, Car, while VOC's of the same function have "__background__" as 0, as
# Faster R-CNN, Mask R-CNN and SSD have. The loss of boxes is exactly 0 for a car, since it is background, and above 0 for a
# van and for DontCare, class 8, which marks regions that KITTI leaves out of training and evaluation. Of COCO, the
# crowd region is an object like others, because iscrowd is not among the default keys, and the image without objects has
# image_id alone, neither boxes nor labels, so the model raises KeyError: 'boxes'.
# Consequence: a detector of KITTI learns that cars, its most frequent class, are background, and losses fall as usual. Add 1 to
# labels and remove DontCare and crowd regions; RetinaNet and FCOS have no background class, and there 0 is right.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.15.0 torchvision==0.29.2 pycocotools==2.0.11 \
    numpy==2.4.6 pillow==13.0.0
cd "$folder"
cat > train.py <<'PY'
import contextlib
import io
import json
from pathlib import Path

import torch
import torchvision
from PIL import Image
from torchvision.datasets import CocoDetection, Kitti, wrap_dataset_for_transforms_v2
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

CLASSES = ("Car", "Van", "DontCare")
kitti = Path("Kitti/raw/training")
for name in ("image_2", "label_2"):
    (kitti / name).mkdir(parents=True)
for name in CLASSES:
    Image.new("RGB", (320, 240)).save(kitti / "image_2" / f"{name}.png")
    # Class, truncation, occlusion, angle, box, and the size, place and rotation in 3D.
    row = f"{name} 0.00 0 0.00 100.00 100.00 200.00 180.00 1.5 1.6 4.0 0.0 1.0 10.0 0.0\n"
    (kitti / "label_2" / f"{name}.txt").write_text(row)
source = Kitti(".")
names = [Path(path).stem for path in source.images]
targets = {name: target for name, (_, target) in zip(names, wrap_dataset_for_transforms_v2(source), strict=True)}

torch.manual_seed(0)
model = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=9).train()


def compute_loss(target):
    """Return the loss of boxes of two equal images."""
    torch.manual_seed(0)
    with torch.no_grad():
        return float(model([torch.zeros(3, 240, 320)] * 2, [target] * 2)["loss_box_reg"])


print("torch", torch.__version__, "torchvision", torchvision.__version__)
losses = {name: compute_loss(targets[name]) for name in CLASSES}
for name in CLASSES:
    print(f"{name}: label {targets[name]['labels'].item()}, loss of its box {losses[name]:.4f}")

images = [{"id": i, "file_name": "a.png", "width": 320, "height": 240} for i in (1, 2, 3)]
region = {"category_id": 1, "bbox": [100, 100, 100, 80], "area": 8000}
annotations = [region | {"id": i, "image_id": i, "iscrowd": crowd, "segmentation": []} for i, crowd in ((1, 0), (2, 1))]
content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
Path("coco.json").write_text(json.dumps(content))
Image.new("RGB", (320, 240)).save("a.png")
with contextlib.redirect_stdout(io.StringIO()):
    coco = [target for _, target in wrap_dataset_for_transforms_v2(CocoDetection(".", "coco.json"))]
print("keys of COCO's targets (object, crowd region, nothing):", [sorted(target) for target in coco])
print("labels of the crowd region:", coco[1]["labels"].tolist())
try:
    raised = f"no error, loss {compute_loss(coco[2])}"
except KeyError as error:
    raised = repr(error)
print("Faster R-CNN of the image with nothing:", raised)
assert [targets[name]["labels"].tolist() for name in CLASSES] == [[0], [1], [8]], "labels have changed"
assert losses["Car"] == 0 and losses["Van"] > 0 and losses["DontCare"] > 0, "losses have changed"
assert [sorted(target) for target in coco] == [["boxes", "image_id", "labels"]] * 2 + [["image_id"]], "keys have changed"
assert coco[1]["labels"].tolist() == [1], "crowd regions have changed"
assert raised == "KeyError('boxes')", "the error has changed"
PY
venv/bin/python train.py
