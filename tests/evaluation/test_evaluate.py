"""From a detector and a dataset to numbers, results and an image sheet."""

import json
import os

import numpy as np
import pytest
import torch
from hotcoco import COCO
from known_answers import TruthDetector, make_dataset

from libradet.data.read import to_coco
from libradet.errors import UserError
from libradet.evaluation.coco_metrics import coco_metrics
from libradet.evaluation.evaluate import evaluate
from libradet.evaluation.sheets import ground_truth, image_sheet, pick
from libradet.inference.predictor import predict
from libradet.models.config import RoIConfig
from libradet.models.create import create_model
from libradet.models.zoo import make_config


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path, images=7)


@pytest.fixture(scope="module")
def tiny():
    """A real detector with random weights that says something about every image."""
    torch.manual_seed(0)
    config = make_config("libra_faster_rcnn", 3, "resnet18")
    config.image.size, config.pyramid.channels = (64, 96), 32
    config.roi = config.roi or RoIConfig()
    config.roi.width, config.detections.score = 64, 0.0
    return create_model(config=config, class_names=("cat", "dog", "bird"))


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("size", [None, (30, 90), "original"])
def test_perfect_detector_scores_one(dataset, batch_size, size):
    metrics = evaluate(TruthDetector(dataset), dataset, size=size, batch_size=batch_size, workers=0, progress=False)
    assert metrics["AP"] == pytest.approx(1)
    assert metrics["images"] == 7
    assert metrics["notes"] == []


def test_classes_are_matched_by_name(dataset):
    detector = TruthDetector(dataset, names=["bird", "unicorn", "Cat", "dog"])
    detector.config.class_names = ("bird", "unicorn", "cat", "dog")
    metrics = evaluate(detector, dataset, workers=0, progress=False)
    assert metrics["AP"] == pytest.approx(1)
    assert len(metrics["notes"]) == 2
    assert "unicorn" in metrics["notes"][1]


def test_nothing_in_common_is_refused_before_any_image_is_read(dataset):
    for image in dataset.images:
        image.path.unlink()
    with pytest.raises(UserError, match=r"no class in common.*horse.*cat, dog, bird"):
        evaluate(TruthDetector(dataset, names=["horse"]), dataset, workers=0, progress=False)


def test_results_are_written_with_the_data_sets_ids(dataset, tmp_path):
    path = tmp_path / "new" / "results.json"
    detector = TruthDetector(dataset, jitter=2.0)
    metrics = evaluate(detector, dataset, workers=0, progress=False, results=path)
    assert 0 < metrics["AP"] < 1
    assert len(COCO(to_coco(dataset)).load_res(str(path)).anns) == metrics["detections"]
    again = coco_metrics(to_coco(dataset), json.loads(path.read_text()), max_detections=detector.slots)
    assert again == metrics


def test_damaged_images_are_named(dataset):
    dataset.images[3].path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=dataset.images[3].path.name):
        evaluate(TruthDetector(dataset), dataset, workers=0, progress=False)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs a second core")
def test_real_detector_evaluates_what_it_predicts(tiny, dataset):
    """Two roads to the same numbers: batches through the loader, and images one by one through predict."""
    # Of one shape, so that both roads pad them alike.
    dataset.images[:] = [p for p in dataset.images if p.width > p.height]
    tiny.train()
    metrics = evaluate(tiny, dataset, batch_size=2, workers=1, progress=False)
    assert tiny.training
    assert tiny.device.type == "cpu"
    results = []
    for image in dataset.images:
        found = predict(tiny, image.path, threshold=0.0)
        for box, score, label in zip(found.xyxy.tolist(), found.confidence, found.class_id, strict=True):
            x0, y0, x1, y1 = box
            results.append(
                {
                    "image_id": image.id,
                    "category_id": dataset.category_ids[label],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": float(score),
                }
            )
    by_hand = coco_metrics(to_coco(dataset), results)
    assert metrics["detections"] == len(results) == 3 * tiny.config.detections.total
    for name in ("AP", "AP50", "AR100"):
        assert metrics[name] == pytest.approx(by_hand[name], abs=1e-6)
    assert 0 < metrics["AP"] < 1


def test_real_detector_in_bf16(tiny, dataset):
    exact = evaluate(tiny, dataset, workers=0, progress=False)
    half = evaluate(tiny, dataset, workers=0, progress=False, precision="bf16")
    assert half["AR100"] == pytest.approx(exact["AR100"], abs=0.1)
    assert half["detections"] == exact["detections"]


def test_real_detector_predicts_and_trains_on(tiny):
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    found = tiny.predict(image, threshold=0.0)
    assert len(found) == tiny.config.detections.total
    assert (np.diff(found.confidence) <= 0).all()
    assert (found.xyxy >= 0).all()
    assert (found.xyxy <= [70, 50, 70, 50]).all()
    assert set(found["class_name"]) <= {"cat", "dog", "bird"}
    by_two = tiny.predict([image, image], threshold=0.0)
    np.testing.assert_allclose(by_two[1].xyxy, found.xyxy, atol=1e-3)


def test_progress_is_shown(dataset, capsys):
    evaluate(TruthDetector(dataset), dataset, workers=0, batch_size=7)
    captured = capsys.readouterr()
    assert "measuring" in captured.err
    assert captured.out == ""


def test_picks_are_spread_evenly_over_images_with_objects(dataset):
    assert [p.id for p in pick(dataset, 3)] == [100, 109, 118]
    assert len(pick(dataset, 99)) == sum(len(p.boxes) > 0 for p in dataset.images) == 6
    empty = make_dataset(dataset.root, images=2)
    del empty.images[0]
    assert pick(empty, 3) == empty.images


def test_ground_truth_names_crowds(dataset):
    shown = ground_truth(dataset.images[0], dataset.class_names)
    assert len(shown) == len(dataset.images[0].boxes) == 4
    assert [name.endswith(" (crowd)") for name in shown["class_name"]] == [False, False, False, True]


def test_sheet_of_a_data_set(tiny, dataset):
    page = image_sheet(tiny, dataset, count=2, threshold=0.0)
    landscape = [p.width >= p.height for p in pick(dataset, 2)]
    assert landscape == [True, True]
    assert page.shape[0] > 2 * 400
    # Both sides differ, since random weights do not find what is there.
    left, right = page[130:500, :640], page[130:500, 656 : 656 + 640]
    assert (left != right).any()
