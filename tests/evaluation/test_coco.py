"""COCO metrics against pycocotools and the official fixture of cocoapi."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle

from libradet.errors import UserError
from libradet.evaluation.coco import STANDARD_METRICS, coco_metrics, rows_to_coco_results, scalars
from tests.helpers.evaluation_data import random_case
from tests.helpers.pycocotools_reference import pycocotools_metrics


def assert_same(ours, reference):
    for name, value in reference.items():
        assert ours[name] == (None if value is None else pytest.approx(value, abs=1e-9)), name


def with_ids_from_one(ground_truth):
    """Return ground truth with ids from 1: pycocotools treats annotation 0 as no match, which ours must not."""
    return ground_truth | {"annotations": [a | {"id": a["id"] + 1} for a in ground_truth["annotations"]]}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 8),
    classes=st.integers(1, 5),
    max_truths=st.integers(1, 9),
    max_found=st.integers(2, 40),
    rounding=st.sampled_from([1, 2, 15]),
)
def test_equal_to_pycocotools(seed, images, classes, max_truths, max_found, rounding):
    ground_truth, results = random_case(seed, images, classes, max_truths, max_found, rounding)
    ours = coco_metrics(ground_truth, results)
    if not results:
        return
    numbers, by_class = pycocotools_metrics(with_ids_from_one(ground_truth), results)
    assert_same(ours, numbers)
    assert_same(dict(enumerate(ours["per_class"].values())), dict(enumerate(by_class)))


@pytest.mark.parametrize("seed", range(3))
def test_recall_beyond_100_and_without_classes(seed):
    ground_truth, results = random_case(seed, num_images=3, max_truths=30, max_detections=900, rounding=2)
    reference = with_ids_from_one(ground_truth)
    limits = (1, 10, 100, 300, 1000)
    assert_same(coco_metrics(ground_truth, results, max_detections=1000), pycocotools_metrics(reference, results)[0])
    for agnostic in (False, True):
        ours = coco_metrics(ground_truth, results, max_detections=1000, class_agnostic=agnostic)
        numbers, _ = pycocotools_metrics(reference, results, limits=limits, use_cats=not agnostic)
        assert_same(ours, numbers)
        assert ours["AR1"] < ours["AR100"] <= ours["AR300"] <= ours["AR1000"]
    assert ours["per_class"] == {}


def test_recall_beyond_100_depends_on_max_detections():
    ground_truth, results = random_case(0)
    assert [k for k in coco_metrics(ground_truth, results) if k.startswith("AR")] == list(STANDARD_METRICS[6:])
    assert "AR1000" not in coco_metrics(ground_truth, results, max_detections=300)
    assert {"AR300", "AR1000"} <= set(coco_metrics(ground_truth, results, max_detections=301))


@pytest.mark.parametrize("seed", range(4))
def test_masks_equal_to_pycocotools(seed):
    ground_truth, results = random_case(seed)
    for a in ground_truth["annotations"]:
        x, y, w, h = a["bbox"]
        a["segmentation"] = [[x, y, x + w, y, x + w / 2, y + h]]
        if a["iscrowd"]:
            a["segmentation"] = rle.merge(rle.frPyObjects(a["segmentation"], 240, 320))
            a["segmentation"]["counts"] = a["segmentation"]["counts"].decode()
    for r in results:
        x, y, w, h = r.pop("bbox")
        r["segmentation"] = rle.frPyObjects([[x, y, x + w, y, x + w / 2, y + h]], 240, 320)[0]
    numbers, by_class = pycocotools_metrics(with_ids_from_one(ground_truth), results, "segm")
    ours = coco_metrics(ground_truth, results, iou_type="segm")
    assert_same(ours, numbers)
    assert_same(dict(enumerate(ours["per_class"].values())), dict(enumerate(by_class)))


def test_masks_need_ground_truth_masks():
    ground_truth, results = random_case(1)
    with pytest.raises(UserError, match="no segmentation"):
        coco_metrics(ground_truth, results, iou_type="segm")


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_official_fixture(shared_data, iou_type):
    folder = shared_data / "cocoapi_eval_fixture"
    ground_truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / f"instances_val2014_fake{iou_type}100_results.json").read_text())
    expected = json.loads((folder / "expected_stats_pycocotools.json").read_text())[iou_type]
    ours = coco_metrics(ground_truth, results, iou_type=iou_type)
    assert_same(ours, dict(zip(STANDARD_METRICS, expected, strict=True)))
    assert ours["images"] == 100
    assert sum(ours["ground_truths_per_class"].values()) == ours["ground_truths"] == 839 - 9


def test_rows_equal_results():
    ground_truth, results = random_case(5)
    rows = np.array([[r["image_id"], *r["bbox"], r["score"], r["category_id"]] for r in results])
    assert rows_to_coco_results(rows) == results
    assert coco_metrics(ground_truth, rows) == coco_metrics(ground_truth, results)


def test_image_ids_select_images():
    ground_truth, results = random_case(6)
    ids = [0, 22, 33]
    ours = coco_metrics(ground_truth, results, image_ids=ids)
    numbers, _ = pycocotools_metrics(with_ids_from_one(ground_truth), results, image_ids=ids)
    assert_same(ours, numbers)
    assert ours["images"] == 3
    truths = [a for a in ground_truth["annotations"] if a["image_id"] in ids and not a["iscrowd"]]
    assert ours["ground_truths"] == len(truths)


def test_no_detections_have_ap_zero():
    ground_truth, _ = random_case(7)
    ours = coco_metrics(ground_truth, [])
    assert ours["AP"] == ours["AP50"] == ours["AR100"] == 0.0
    assert coco_metrics(ground_truth, np.zeros((0, 7))) == ours
    assert ours["notes"] == ["The detector has no detections in any image."]


@pytest.mark.parametrize("found", [True, False])
def test_no_ground_truth_has_no_ap(found):
    ground_truth, results = random_case(8)
    ground_truth["annotations"] = []
    ours = coco_metrics(ground_truth, results if found else [])
    assert all(ours[name] is None for name in STANDARD_METRICS)
    assert set(ours["per_class"].values()) == {None}
    assert ours["notes"] == ["No ground truth in 6 images: AP and AR are undefined."]
    assert scalars(ours) == {}


def test_no_images():
    ground_truth, _ = random_case(8)
    ours = coco_metrics(ground_truth, [], image_ids=[])
    assert all(ours[name] is None for name in STANDARD_METRICS)
    assert ours["notes"] == ["No ground truth in 0 images: AP and AR are undefined."]


def test_area_ranges_without_ground_truth_have_no_ap():
    category = [{"id": 1, "name": "thing"}, {"id": 2, "name": "thing"}]
    box = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]}
    truth = {"images": [{"id": 1}], "categories": category, "annotations": [box | {"id": 0, "area": 400, "iscrowd": 0}]}
    ours = coco_metrics(truth, [box | {"score": 0.9}])
    assert (ours["AP"], ours["APs"], ours["APm"], ours["APl"]) == (pytest.approx(1), pytest.approx(1), None, None)
    assert ours["per_class"] == {"thing (1)": pytest.approx(1), "thing (2)": None}
    assert "APm" not in scalars(ours)
    assert scalars(ours)["APs"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image_id": 12345}, "image_ids.*12345"),
        ({"category_id": 999}, "category_ids.*999"),
        ({"score": np.nan}, "fin"),
    ],
)
def test_invalid_results_are_refused(change, named):
    ground_truth, results = random_case(9)
    with pytest.raises(UserError, match=named):
        coco_metrics(ground_truth, [*results, results[0] | change])
