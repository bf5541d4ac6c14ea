import contextlib
import io
import json
from importlib.metadata import version
from pathlib import Path

from globox import AnnotationSet, COCOEvaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

OBJECTS = [[10, 10, 50, 50], [100, 100, 35, 28]]
DETECTIONS = [([10, 10, 50, 50], 0.5), ([100, 100, 37, 30], 0.9)]
common = {"image_id": 1, "category_id": 1}
annotations = [
    common | {"id": i, "bbox": box, "area": box[2] * box[3], "iscrowd": 0} for i, box in enumerate(OBJECTS, start=1)
]
content = {
    "images": [{"id": 1, "file_name": "a.png", "width": 400, "height": 300}],
    "annotations": annotations,
    "categories": [{"id": 1, "name": "cat"}],
}
Path("truth.json").write_text(json.dumps(content))
Path("results.json").write_text(json.dumps([common | {"bbox": box, "score": score} for box, score in DETECTIONS]))
with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO("truth.json")
    evaluation = COCOeval(truth, truth.loadRes("results.json"), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
names = ("ap", "ap_50", "ap_75", "ap_small", "ap_medium")
expected = {name: round(float(value), 3) for name, value in zip(names, evaluation.stats, strict=False)}
truth = AnnotationSet.from_coco("truth.json")
evaluator = COCOEvaluator(ground_truths=truth, predictions=truth.from_results("results.json"))
actual = {name: round(float(getattr(evaluator, name)()), 3) for name in names}
print("globox", version("globox"), "pycocotools", version("pycocotools"))
print("pycocotools", expected)
print("globox", actual)
assert expected.pop("ap_medium") == 0.9 and actual.pop("ap_medium") == 0.5, "AP of medium objects has changed"
assert expected == actual, "the others differ now"
