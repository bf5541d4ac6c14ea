#!/usr/bin/env bash
# Versions: torchmetrics 1.9.0, pycocotools 2.0.11 (torch 2.15.0, torchvision 0.29.2).
# Behavior: MeanAveragePrecision with average="macro" and "micro", which its documentation describes as a method "for averaging
# scores over labels", of four objects of four classes whose boxes are detected exactly, with right labels, with labels
# of the next class, and with one class for all; next to the accuracy of the same labels in the same library.
# Output seen, 2026-11-28: with micro, all labels are replaced by 0 before the evaluation, so mAP is 1 for all three, and so are
# mAP50 and the recall. With macro it is 1, 0 and 0.25, and so is the accuracy with micro. There is no message.
# Right value: micro averages count decisions of all classes together, and a wrong class is a wrong decision. With labels of
# the next class no detection is right, so AP is 0 by any average over labels.
# Consequence: a detector that confuses all classes is perfect in a log, and the best weights by this metric are those with the
# best boxes, whatever they are called. Use micro for boxes without classes only.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check torchmetrics==1.9.0 torch==2.15.0 \
    torchvision==0.29.2 pycocotools==2.0.11 numpy==2.4.6
cd "$folder"
cat > average.py <<'PY'
import torch
import torchmetrics
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.detection import MeanAveragePrecision

corner = 20.0 * torch.arange(4)[:, None]
boxes, labels = torch.cat([corner, corner, corner + 10, corner + 10], dim=1), torch.arange(4)
CASES = {
    "right labels": labels,
    "labels of the next class": (labels + 1) % 4,
    "one class for all": torch.zeros_like(labels),
}


def evaluate(found, average):
    """Return mAP, mAP50 and recall of detections with these labels."""
    metric = MeanAveragePrecision(average=average)
    detections = {"boxes": boxes, "labels": found, "scores": torch.tensor([0.9, 0.8, 0.7, 0.6])}
    metric.update([detections], [{"boxes": boxes, "labels": labels}])
    result = metric.compute()
    return [round(float(result[name]), 4) for name in ("map", "map_50", "mar_100")]


print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__)
values = {}
for name, found in CASES.items():
    micro, macro = (evaluate(found, average) for average in ("micro", "macro"))
    accuracy = round(float(MulticlassAccuracy(num_classes=4, average="micro")(found, labels)), 4)
    values[name] = (macro[0], accuracy)
    print(f"{name}: mAP, mAP50, recall with micro {micro}, with macro {macro}; accuracy with micro {accuracy}")
    assert micro == [1, 1, 1], "micro no longer ignores classes"
expected = dict(zip(CASES, [(1, 1), (0, 0), (0.25, 0.25)], strict=True))
assert values == expected, "macro, or the accuracy, has changed"
PY
venv/bin/python -W ignore average.py
