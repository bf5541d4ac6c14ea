#!/usr/bin/env bash
# Versions: globox 2.9.0, pycocotools 2.0.11, faster-coco-eval 1.8.0, hotcoco 1.3.0.
# Behavior: a dataset of two images and two classes, saved by globox with save_coco(auto_ids=True), and evaluated with
# detections that are equal to the objects; then with other annotation ids.
# Output seen, 2026-11-28: globox counts annotation ids from 0, as Label Studio does. pycocotools stores the id of the
# matched object, and 0 for no match, so a detection of the object with id 0 is a false positive: AP 0.5 in place of 1. So
# is it in faster-coco-eval, which warns. hotcoco returns 1. With ids from 1, all return 1. With negative ids,
# pycocotools returns 1, and faster-coco-eval 0 without a warning.
# Consequence: one object counts as missed, which is a lot for a rare class; the same files have another AP in another
# evaluator. Number annotations from 1.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check globox==2.9.0 pycocotools==2.0.11 \
    faster-coco-eval==1.8.0 hotcoco==1.3.0 numpy==2.4.6
cd "$folder"
cat > evaluate.py <<'PY'
import contextlib
import io
import json
import warnings
from importlib.metadata import version
from pathlib import Path

import faster_coco_eval
import globox
import hotcoco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

warnings.simplefilter("ignore")
evaluators = {
    "pycocotools": (COCO, COCOeval),
    "faster-coco-eval": (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
    "hotcoco": (hotcoco.COCO, hotcoco.COCOeval),
}


def evaluate(name, path, detections):
    """Return AP."""
    dataset, evaluator = evaluators[name]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = dataset(path)
        evaluation = evaluator(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return round(float(evaluation.stats[0]), 3)


print({name: version(name) for name in ("globox", *evaluators)})
box = {"xmin": 10, "ymin": 10, "xmax": 40, "ymax": 40}
names = ["cat", "dog"]
images = [globox.Annotation(f"{name}.png", (100, 80), [globox.BoundingBox(label=name, **box)]) for name in names]
globox.AnnotationSet(images).save_coco("globox.json", auto_ids=True)
content = json.loads(Path("globox.json").read_text())
results = {}
for first in (0, 1, -5):
    for number, annotation in enumerate(content["annotations"]):
        assert first != 0 or annotation["id"] == number, "globox's ids have changed"
        annotation["id"] = first + number
    Path("truth.json").write_text(json.dumps(content))
    detections = [{key: a[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for a in content["annotations"]]
    for name in evaluators if first >= 0 else list(evaluators)[:2]:  # hotcoco refuses negative ids
        results[name, first] = evaluate(name, "truth.json", detections)
        print(f"annotation ids from {first}, {name}: AP {results[name, first]}")
expected = {("pycocotools", 0): 0.5, ("faster-coco-eval", 0): 0.5, ("faster-coco-eval", -5): 0.0}
assert all(results.pop(key) == value for key, value in expected.items()), "results for ids of 0 or below have changed"
assert set(results.values()) == {1.0}, "the others have changed"
PY
venv/bin/python evaluate.py
