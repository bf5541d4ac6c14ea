#!/usr/bin/env bash
# Versions: kornia 0.9.0 (torch 2.15.0).
# Behavior: kornia.augmentation.AugmentationSequential with data keys image, bbox_xyxy and keypoints, of an image of 60 x 80
# with a white rectangle in columns 30 to 45 and rows 20 to 30, so the box (30, 20, 46, 31), and its center.
# Output seen, 2026-11-28: crops, paddings and shifts move the box with its pixels. Flips and rotations by 90 degrees
# treat its right and lower edges as indices of pixels, without a change of the rest: after a horizontal flip, pixels are in
# columns 34 to 49, and the box is (33, 20, 49, 31), 1 px to the left of them. After a vertical flip it is 1 px above them.
# The keypoint stays at the center of the pixels. An elastic transform moves pixels and leaves boxes as they were.
# Consequence: boxes of the flipped half of the training images are 1 px beside those of the other half. Flip with
# torchvision or albumentations, or correct boxes by 1.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check kornia==0.9.0 torch==2.15.0 numpy==2.4.6
cd "$folder"
cat > flip.py <<'PY'
import kornia
import kornia.augmentation as K
import numpy as np
import torch

print("kornia", kornia.__version__, "torch", torch.__version__)
transforms = {
    "horizontal flip": K.RandomHorizontalFlip(p=1),
    "vertical flip": K.RandomVerticalFlip(p=1),
    "rotation by 90": K.RandomRotation90((1, 1), p=1),
    "center crop": K.CenterCrop((41, 61)),
    "padding": K.PadTo((100, 120)),
    "crop": K.RandomCrop((50, 70), p=1),
    "elastic": K.RandomElasticTransform(p=1, alpha=(4.0, 4.0)),
}
beside = {}
for name, transform in transforms.items():
    torch.manual_seed(1)
    image = torch.zeros(1, 1, 60, 80)
    image[:, :, 20:31, 30:46] = 1
    box, center = torch.tensor([[[30.0, 20, 46, 31]]]), torch.tensor([[[37.5, 25.0]]])
    pipeline = K.AugmentationSequential(transform, data_keys=["image", "bbox_xyxy", "keypoints"])
    image, box, center = (torch.as_tensor(output) for output in pipeline(image, box, center))
    rows, columns = np.nonzero(image[0, 0].numpy() > 0.5)
    pixels = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    box, center = box.reshape(4).numpy(), center.reshape(2).numpy()
    beside[name] = (box - pixels).round(3).tolist()
    print(f"{name}: pixels {pixels.tolist()}, box {box.round(3).tolist()}, box beside pixels by {beside[name]}")
    if name != "elastic":
        assert np.allclose(center, [columns.mean(), rows.mean()], atol=1e-3), "keypoints are no longer at the center"
assert beside["horizontal flip"] == [-1, 0, -1, 0], "boxes of horizontal flips have changed"
assert beside["vertical flip"] == beside["rotation by 90"] == [0, -1, 0, -1], "boxes of vertical flips or rotations have changed"
assert beside["center crop"] == beside["padding"] == beside["crop"] == [0, 0, 0, 0], "the others have changed"
assert any(beside["elastic"]), "boxes now follow the elastic transform"
PY
venv/bin/python -W ignore flip.py
