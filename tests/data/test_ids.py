"""Ids are numbers of 64 bits or text of any length, and stay as written."""

import json

import pytest

from libradet.data.convert import convert
from libradet.data.formats.coco import to_coco
from libradet.data.read import check, read
from libradet.data.segmentations import describe_missing_masks
from libradet.evaluation.coco import coco_metrics
from libradet.evaluation.evaluator import CocoEvaluator
from libradet.evaluation.ground_truth import number_images
from tests.helpers.data_building import damaged
from tests.helpers.evaluation_data import update_evaluator
from tests.helpers.fake_detectors import GroundTruthDetector
from tests.helpers.pycocotools_reference import pycocotools_metrics


def change_ids(new_id):
    """Return a damage: all ids of images, annotations and categories are changed."""

    def damage(content):
        for image in content["images"]:
            image["id"] = new_id(image["id"])
        for annotation in content["annotations"]:
            annotation |= {key: new_id(annotation[key]) for key in ("id", "image_id", "category_id")}
        for category in content["categories"]:
            category["id"] = new_id(category["id"])

    return damage


def evaluate(dataset):
    """Return metrics and results of a detector that is off by some pixels."""
    evaluator = CocoEvaluator(dataset)
    update_evaluator(evaluator, GroundTruthDetector(dataset, jitter=3.0), list(range(len(dataset))))
    return evaluator.compute(), evaluator.results()


KEPT = [
    lambda i: 1734567890123456000 + i,
    lambda i: 2**63 + i,
    lambda i: -(2**62) + i,
    lambda i: f"20210312093045123{i:03}",
    lambda i: f"img-{i:03}",
    lambda i: f"{i:05}",
    lambda i: str(i),
    lambda i: "x" * 300 + f"{i:03}",
]


@pytest.mark.parametrize("new_id", KEPT)
def test_ids_are_exact_in_metrics_results_and_files(tmp_path, new_id):
    plain, _ = read(damaged(tmp_path / "plain", lambda content: None))
    dataset, report = read(damaged(tmp_path / "other", change_ids(new_id)))
    assert report.skipped + report.warnings + report.errors == []
    assert [image.id for image in dataset.images] == [new_id(image.id) for image in plain.images]
    assert dataset.category_ids == [new_id(i) for i in plain.category_ids]
    assert [i for p in dataset.images for i in p.annotation_ids.tolist()] == [new_id(i) for i in (100, 101, 102, 103)]
    metrics, results = evaluate(dataset)
    plain_metrics, plain_results = evaluate(plain)
    assert metrics == plain_metrics
    assert 0 < metrics["AP"] < 1
    keys = ("image_id", "category_id")
    assert results == [r | {key: new_id(r[key]) for key in keys} for r in plain_results]
    assert coco_metrics(to_coco(dataset), json.loads(json.dumps(results)), max_detections=300) == metrics
    convert(tmp_path / "other", tmp_path / "converted", "coco")
    again, _ = read(tmp_path / "converted")
    assert to_coco(again) == to_coco(dataset)


def test_text_and_numbers_match(tmp_path):
    def damage(content):
        for image in content["images"]:
            image["id"] = str(image["id"])

    dataset, report = read(damaged(tmp_path, damage))
    assert report.boxes == 4
    assert [r["image_id"] for r in evaluate(dataset)[1]] == ["10", "10", "11", "12"]


def test_images_are_numbered_in_the_order_of_their_ids(tmp_path):
    ids = {10: 2**63, 11: "b", 12: "a", 13: 5}
    damage = change_ids(lambda i: ids.get(i, i))
    assert number_images(read(damaged(tmp_path, damage))[0]) == [2, 4, 3, 1]


def test_whole_floats_are_numbers(tmp_path):
    dataset, report = read(damaged(tmp_path, change_ids(float)))
    assert report.warnings == []
    assert json.dumps([image.id for image in dataset.images]) == "[10, 11, 12, 13]"
    assert dataset.images[0].annotation_ids.tolist() == [100, 101]


@pytest.mark.parametrize(
    ("part", "key"), [("images", "id"), ("categories", "id"), ("annotations", "id"), ("annotations", "category_id")]
)
def test_floats_that_lost_digits_are_reported(tmp_path, part, key):
    root = damaged(tmp_path, change_ids(lambda i: 1.7345678901234568e18 + 1024 * i))
    assert any("lost digits" in text and "1.734567890123" in text for text in check(root).warnings)
    content = json.loads((root / "annotations.json").read_text())
    assert isinstance(content[part][0][key], float)


@pytest.mark.parametrize("value", [2**64, 10**30, -(10**19), 1e25])
@pytest.mark.parametrize("part", ["images", "categories"])
def test_numbers_beyond_64_bits_are_refused(tmp_path, part, value):
    root = damaged(tmp_path, lambda content: content[part][0].update(id=value))
    error = check(root).errors[0]
    assert f"{part}[0] (id {value} is too large" in error
    assert "missing" not in error


def test_annotation_ids_beyond_64_bits_are_numbered(tmp_path):
    dataset, report = read(damaged(tmp_path, lambda content: content["annotations"][0].update(id=10**30)))
    assert "1 annotation has an id that is too large" in report.warnings[0]
    assert dataset.images[0].annotation_ids.tolist() == [104, 101]


@pytest.mark.parametrize("value", [2**63, 2**63 - 1, -(2**63) + 1, 2**64 - 1])
def test_the_largest_annotation_ids_are_exact(tmp_path, value):
    dataset, _ = read(damaged(tmp_path, lambda content: content["annotations"][0].update(id=value)))
    assert dataset.images[0].annotation_ids.tolist() == [value, 101]


def test_text_ids_are_named_where_masks_are_missing(tmp_path):
    dataset, _ = read(damaged(tmp_path, lambda content: content["annotations"][0].update(id="first")))
    assert "for example annotation first of p0.png" in describe_missing_masks(dataset)


@pytest.mark.parametrize(("value", "is_noted"), [(0, True), (1, False), ("0", True)])
def test_annotations_that_pycocotools_cannot_match_are_noted(tmp_path, value, is_noted):
    root = damaged(tmp_path, lambda content: content["annotations"][0].update(id=value))
    content = json.loads((root / "annotations.json").read_text())
    keys = ("image_id", "category_id", "bbox")
    results = [{key: annotation[key] for key in keys} | {"score": 0.9} for annotation in content["annotations"]]
    assert bool(pycocotools_metrics(content, results)[0]["AP"] < 1) is is_noted
    dataset, report = read(root)
    assert any("an annotation has the id 0" in note for note in report.notes) is is_noted
    evaluator = CocoEvaluator(dataset)
    update_evaluator(evaluator, GroundTruthDetector(dataset), list(range(len(dataset))))
    assert evaluator.compute()["AP"] == 1
