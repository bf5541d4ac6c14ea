#!/usr/bin/env bash
# Versions: transformers 5.24.0 (torch 2.15.0, torchvision 0.29.2).
# Behavior: RTDetrImageProcessor.post_process_object_detection with use_focal_loss=False, whose documentation says that
# "a softmax function is used" then, of one image with three queries, for cat, dog and background, alone and in batches.
# Output seen, 2026-11-29: the softmax has no dim, so for three dimensions PyTorch takes the first, the batch. Of one image alone,
# every query has the score 1.0, also that which is background by 0.995, and all are the first class. With another image
# beside it, scores depend on that image; with a copy of itself all are 0.5, so the default threshold drops everything. The only
# message is PyTorch's warning on an implicit dimension, from which one cannot tell that scores are wrong.
# Right value: softmax over the classes, 0.965 for cat, 0.787 for dog, and background for the third query.
# Consequence: who sets use_focal_loss=False in the configuration, which RT-DETR, RT-DETRv2, D-FINE and DEIMv2 have, and then here
# gets detections without meaning. The last class is cut off as background, but these models have no logit for
# background, so with two classes no dog is ever returned. Keep the default, or compute scores from logits.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check transformers==5.24.0 torch==2.15.0 torchvision==0.29.2 \
    numpy==2.4.6
cd "$folder"
cat > detect.py <<'PY'
import warnings
from importlib.metadata import version

import torch
from transformers import RTDetrConfig, RTDetrImageProcessor
from transformers.models.rt_detr.modeling_rt_detr import RTDetrObjectDetectionOutput

CLASSES = ("cat", "dog")
# Logits of three queries for cat, dog and background.
IMAGE = [[4.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 6.0]]
OTHER = [[9.0, 0.0, 0.0], [0.0, 0.0, 6.0], [0.0, 0.0, 6.0]]
processor = RTDetrImageProcessor()


def detect(*images, threshold=0.5):
    """Return classes and scores of the first image in a batch of all."""
    logits = torch.tensor(images)
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.2]).expand(*logits.shape[:2], 4)
    outputs = RTDetrObjectDetectionOutput(logits=logits, pred_boxes=boxes)
    sizes = [(100, 100)] * len(images)
    result = processor.post_process_object_detection(outputs, threshold, sizes, use_focal_loss=False)[0]
    return [(CLASSES[k], round(s, 3)) for k, s in zip(result["labels"].tolist(), result["scores"].tolist(), strict=True)]


print("transformers", version("transformers"), "torch", torch.__version__)
scores, labels = torch.tensor(IMAGE).softmax(-1)[:, :-1].max(-1)
expected = [(CLASSES[k], round(s, 3)) for k, s in zip(labels.tolist(), scores.tolist(), strict=True)]
print("softmax over classes:", expected)
with warnings.catch_warnings(record=True) as messages:
    warnings.simplefilter("always")
    alone, beside, twice = detect(IMAGE), detect(IMAGE, OTHER, threshold=0.0), detect(IMAGE, IMAGE, threshold=0.0)
    dropped = detect(IMAGE, IMAGE)
print("alone:", alone)
print("beside another image:", beside)
print("beside a copy:", twice, "and above 0.5:", dropped)
print("messages:", sorted({str(message.message) for message in messages}))
assert expected[:2] == [("cat", 0.965), ("dog", 0.787)] and expected[2][1] < 0.01
assert alone == [("cat", 1.0)] * 3, "scores of one image have changed"
assert beside == [("dog", 0.5), ("dog", 0.881), ("cat", 0.5)], "scores of two images have changed"
assert twice == [("cat", 0.5)] * 3 and dropped == [], "scores of equal images have changed"
assert RTDetrConfig(use_focal_loss=False).use_focal_loss is False, "the configuration has changed"
PY
venv/bin/python detect.py 2> messages.txt || { cat messages.txt >&2; exit 1; }
