"""COCO metrics of masks, against pycocotools."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as reference

from libradet.data.formats.coco import to_coco
from libradet.data.read import read
from libradet.evaluation.coco import MASK_METRICS, STANDARD_METRICS, coco_metrics
from libradet.evaluation.evaluate import evaluate
from libradet.evaluation.evaluator import CocoEvaluator
from libradet.evaluation.tables import print_metrics
from libradet.inference.postprocess import postprocess
from tests.helpers.evaluation_data import make_batch, make_mask_dataset, update_evaluator
from tests.helpers.fake_detectors import GroundTruthMaskDetector
from tests.helpers.pycocotools_reference import pycocotools_metrics


@pytest.fixture
def dataset(tmp_path):
    return make_mask_dataset(tmp_path)


def without_boxes(results):
    return [{k: v for k, v in r.items() if k != "bbox"} for r in results]


@pytest.mark.parametrize("jitter", [pytest.param(0.0, marks=pytest.mark.slow), 6.0])
def test_real_images_equal_pycocotools(shared_data, jitter):
    """Polygons, RLE and crowd regions, against pycocotools on the annotation file."""
    dataset, _ = read(shared_data / "coco_cc", "val")
    assert sum(p.crowd.sum() for p in dataset.images) > 3
    evaluator = CocoEvaluator(dataset, masks=True)
    detector = GroundTruthMaskDetector(dataset, jitter=jitter)
    for row in range(len(dataset)):
        update_evaluator(evaluator, detector, [row])
    ours = evaluator.compute()
    results = json.loads(json.dumps(evaluator.results()))
    truth = json.loads((shared_data / "coco_cc" / "val.json").read_text())
    numbers, by_class = pycocotools_metrics(truth, without_boxes(results), "segm")
    assert [ours[f"mask_{name}"] for name in numbers] == pytest.approx(list(numbers.values()), abs=1e-9)
    assert list(ours["mask_per_class"].values()) == [None if v is None else pytest.approx(v) for v in by_class]
    boxes, _ = pycocotools_metrics(truth, results)
    assert [ours[name] for name in boxes] == pytest.approx(list(boxes.values()), abs=1e-9)
    # A grid of 28 x 28 is fine enough for the shapes of real objects.
    assert ours["mask_AP50"] > (0.97 if jitter == 0 else 0.7)
    assert ours["mask_AP"] != ours["AP"]


def test_results_equal_the_masks_of_predictions(dataset):
    detector = GroundTruthMaskDetector(dataset, jitter=3.0).eval()
    evaluator = CocoEvaluator(dataset, masks=True)
    batch = make_batch(dataset, [0, 2], scale=(1.5, 2.0))
    found = detector(batch)
    evaluator.update(found, batch)
    shown = np.concatenate([d.mask for d in postprocess(found, batch, detector.class_names) if d.mask.shape[1] == 40])
    encoded = [r["segmentation"] for r in evaluator.results() if r["segmentation"]["size"] == [40, 60]]
    assert len(encoded) == len(shown) == len(dataset.images[0].boxes)
    np.testing.assert_array_equal(reference.decode(encoded).transpose(2, 0, 1), shown)
    assert shown.any((1, 2)).all()


def test_masks_follow_their_detections(dataset):
    """Also with ignored classes, repeated images and images in any order."""
    names = ["bird", "unicorn", "dog", "cat"]
    detector = GroundTruthMaskDetector(dataset, names=names)
    evaluator = CocoEvaluator(dataset, class_map=[2, -1, -1, 0], masks=True)
    for rows in ([4, 2], [0, 2], [3, 1, 3]):
        update_evaluator(evaluator, detector, rows)
    for result in evaluator.results():
        x, y, w, h = result["bbox"]
        bx, by, bw, bh = reference.toBbox(
            result["segmentation"] | {"counts": result["segmentation"]["counts"].encode()}
        )
        assert max(abs(bx - x), abs(by - y), abs(bx + bw - x - w), abs(by + bh - y - h)) <= 1.5
    metrics = evaluator.compute()
    assert len(evaluator.results()) == metrics["detections"] == sum((p.labels != 1).sum() for p in dataset.images)
    assert metrics["mask_per_class"]["dog"] == 0
    assert metrics["mask_per_class_AP50"] == {"cat": pytest.approx(1), "dog": 0, "bird": pytest.approx(1)}


def test_evaluate_boxes_and_masks(dataset, tmp_path, capsys):
    path = tmp_path / "results.json"
    metrics = evaluate(GroundTruthMaskDetector(dataset), dataset, num_workers=0, progress=False, coco_results=path)
    assert metrics["AP"] == pytest.approx(1)
    assert metrics["mask_AP50"] == pytest.approx(1)
    assert {*STANDARD_METRICS, *MASK_METRICS, "AR300", "mask_AR300", "mask_per_class", "mask_per_class_AP50"} <= set(
        metrics
    )
    again = coco_metrics(to_coco(dataset), without_boxes(json.loads(path.read_text())), iou_type="segm")
    assert {f"mask_{name}": again[name] for name in STANDARD_METRICS} == {name: metrics[name] for name in MASK_METRICS}
    print_metrics(metrics)
    text = capsys.readouterr().out
    assert "mask precision" in text
    assert "mask AP50" in text
    assert f"{metrics['mask_AP']:.3f}" in text


def test_without_segmentations_only_boxes_are_evaluated(dataset):
    bare = replace(dataset.images[2], segmentations=None)
    dataset.images[2] = bare
    detector = GroundTruthMaskDetector(dataset)
    detector.forward = super(GroundTruthMaskDetector, detector).forward
    metrics = evaluate(detector, dataset, num_workers=0, progress=False)
    assert metrics["AP"] == pytest.approx(1)
    assert "mask_AP" not in metrics
    (note,) = metrics["notes"]
    assert f"annotation {bare.annotation_ids[0]} of {bare.path.name}" in note
    assert note.startswith("Masks are not evaluated")


def test_crowd_region_without_segmentation_is_its_box():
    box = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
    thing = {**box, "id": 1, "segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]]}
    crowd = {**box, "id": 2, "bbox": [40, 40, 30, 30], "iscrowd": 1}
    truth = {
        "images": [{"id": 1, "width": 100, "height": 80}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [thing, crowd],
    }
    inside = reference.frPyObjects([[45, 45, 60, 45, 60, 60, 45, 60]], 80, 100)[0]
    whole = reference.frPyObjects(thing["segmentation"], 80, 100)[0]
    results = [
        {"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": inside},
        {"image_id": 1, "category_id": 1, "score": 0.8, "segmentation": whole},
    ]
    assert coco_metrics(truth, results, iou_type="segm")["AP"] == pytest.approx(1)
    del crowd["iscrowd"]
    truth["annotations"] = [thing, crowd | {"segmentation": [[40, 40, 70, 40, 70, 70, 40, 70]], "iscrowd": 0}]
    assert coco_metrics(truth, results, iou_type="segm")["AP"] < 1
