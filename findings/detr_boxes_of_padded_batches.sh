#!/usr/bin/env bash
# Versions: transformers 5.24.0 (torch 2.15.0).
# Behavior: DetrImageProcessor on a batch of images of different sizes with COCO annotations, and its labels as if a model
# had predicted them, through post_process_object_detection with their orig_size as target_sizes.
# Output seen, 2026-11-28: boxes of labels are fractions of the padded image, and target_sizes are sizes without padding,
# so the boxes are others. In a batch of 400 x 200, 200 x 400 and 300 x 300, the box (100, 50, 300, 150) of the first
# becomes (100, 25, 300, 75), and (75, 75, 225, 225) of the last becomes (45, 45, 135, 135). Each image alone is right.
# Consequence: a detector that is trained with these labels learns boxes that depend on which images share its batch, and
# its detections are too small by the part that is padding, in batches and evaluated alone. Boxes have to be scaled by the
# padded size and divided by the resize's factor.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check transformers==5.24.0 torch==2.15.0 \
    torchvision==0.29.2 pillow==13.0.0 scipy==1.17.1
cd "$folder"
cat > process.py <<'PY'
from types import SimpleNamespace

import torch
import transformers
from PIL import Image

OBJECTS = [((400, 200), (100, 50, 300, 150)), ((200, 400), (50, 100, 150, 300)), ((300, 300), (75, 75, 225, 225))]


def return_through_post_processing(objects):
    """Return the boxes in pixels that labels of a batch become if they are predicted exactly."""
    processor = transformers.DetrImageProcessor()
    annotations = []
    for number, (_, (left, top, right, bottom)) in enumerate(objects):
        box = [left, top, right - left, bottom - top]
        own = {"bbox": box, "category_id": 1, "area": box[2] * box[3], "iscrowd": 0}
        annotations.append({"image_id": number, "annotations": [own]})
    images = [Image.new("RGB", size) for size, _ in objects]
    labels = processor(images=images, annotations=annotations, return_tensors="pt")["labels"]
    logits = torch.full((len(objects), 1, 3), -10.0)
    logits[:, :, 1] = 10
    outputs = SimpleNamespace(logits=logits, pred_boxes=torch.stack([label["boxes"] for label in labels]))
    sizes = torch.stack([label["orig_size"] for label in labels])
    results = processor.post_process_object_detection(outputs, threshold=0.5, target_sizes=sizes)
    return [tuple(round(x) for x in result["boxes"][0].tolist()) for result in results]


print("transformers", transformers.__version__)
together = return_through_post_processing(OBJECTS)
alone = [return_through_post_processing([own])[0] for own in OBJECTS]
for (size, box), first, second in zip(OBJECTS, together, alone, strict=True):
    print(f"image {size}, box {box}: in the batch {first}, alone {second}")
assert alone == [box for _, box in OBJECTS], "single images have changed"
assert together == [(100, 25, 300, 75), (25, 100, 75, 300), (45, 45, 135, 135)], "batches have changed"
PY
venv/bin/python process.py
