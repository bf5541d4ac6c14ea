#!/usr/bin/env bash
# Versions: globox 2.9.0, labelformat 0.1.17, supervision 0.31.2, pycocotools 2.0.11 (opencv-python-headless 4.14.0.94).
# Behavior: a COCO dataset with an object and a crowd region (iscrowd 1), read and written by each tool as COCO and as YOLO.
# The COCO files, with ids from 1 and areas where they lack them, are evaluated with a detection that is equal to the object.
# Output seen, 2026-11-28: globox writes the crowd region with iscrowd 0, and labelformat all objects without iscrowd, id
# and area; all three tools write it to YOLO as an object, without a message. supervision's COCO file keeps it. AP of the
# same detection is 1 with the original and with supervision's file, and 0.505 with globox's and labelformat's.
# Consequence: a group that should be ignored becomes one large object that a detector is trained to detect, and that
# evaluation counts as missed. Remove crowd regions before the conversion.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check globox==2.9.0 labelformat==0.1.17 supervision==0.31.2 \
    pycocotools==2.0.11 opencv-python-headless==4.14.0.94
cd "$folder"
cat > convert.py <<'PY'
import contextlib
import io
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import supervision
from globox import AnnotationSet
from labelformat.formats import COCOObjectDetectionInput, COCOObjectDetectionOutput, YOLOv8ObjectDetectionOutput
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

common = {"image_id": 1, "category_id": 1}
rle = {"size": [480, 640], "counts": [300 * 480 + 50, *[120, 360] * 119, 120, 310 + 220 * 480]}
truth = {
    "images": [{"id": 1, "file_name": "a.png", "width": 640, "height": 480}],
    "categories": [{"id": 1, "name": "sheep"}],
    "annotations": [
        common | {"id": 1, "iscrowd": 0, "bbox": [10, 10, 60, 40], "area": 2400, "segmentation": [[10, 10, 70, 10, 70, 50, 10, 50]]},
        common | {"id": 2, "iscrowd": 1, "bbox": [300, 50, 120, 120], "area": 14400, "segmentation": rle},
    ],
}
Path("images").mkdir()
Image.fromarray(np.zeros((480, 640, 3), np.uint8)).save("images/a.png")
Path("truth.json").write_text(json.dumps(truth))


def evaluate(path):
    """Return pycocotools' AP of a detection that is equal to the object."""
    content = json.loads(Path(path).read_text())
    for i, annotation in enumerate(content["annotations"], start=1):
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
        annotation.setdefault("iscrowd", 0)
        annotation["id"] = i
    Path("numbered.json").write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO("numbered.json")
        ids = {"image_id": objects.getImgIds()[0], "category_id": objects.getCatIds()[0]}
        results = objects.loadRes([ids | {"bbox": [10, 10, 60, 40], "score": 0.9}])
        evaluation = COCOeval(objects, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return round(float(evaluation.stats[0]), 3)


annotations = AnnotationSet.from_coco("truth.json")
annotations.save_coco("globox.json", auto_ids=True)
annotations.save_yolo_v5("globox", label_to_id={"sheep": 0})
source = COCOObjectDetectionInput(input_file=Path("truth.json"))
COCOObjectDetectionOutput(output_file=Path("labelformat.json")).save(label_input=source)
YOLOv8ObjectDetectionOutput(output_file=Path("labelformat/data.yaml"), output_split="train").save(label_input=source)
dataset = supervision.DetectionDataset.from_coco("images", "truth.json")
dataset.as_coco(annotations_path="supervision.json")
dataset.as_yolo(annotations_directory_path="supervision")
expected = {"globox": ([0, 0], 0.505), "labelformat": ([None, None], 0.505), "supervision": ([0, 1], 1)}
print("original: AP", evaluate("truth.json"))
for name, result in expected.items():
    flags = [a.get("iscrowd") for a in json.loads(Path(f"{name}.json").read_text())["annotations"]]
    (labels,) = Path(name).rglob("a.txt")
    objects = labels.read_text().strip().splitlines()
    print(f"{name} {version(name)}: iscrowd {flags}, AP {evaluate(f'{name}.json')}, YOLO {objects}")
    assert (flags, evaluate(f"{name}.json")) == result, f"{name}'s COCO files have changed"
    assert len(objects) == 2, f"{name}'s YOLO files no longer contain the crowd region"
assert evaluate("truth.json") == 1, "AP with the original has changed"
PY
venv/bin/python convert.py 2> log.txt || { cat log.txt; exit 1; }
