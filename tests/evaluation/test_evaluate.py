"""Evaluation of a model on a dataset."""

import json
import os

import numpy as np
import pytest
from hotcoco import COCO

from libradet.data.formats.coco import to_coco
from libradet.errors import UserError
from libradet.evaluation.coco import coco_metrics
from libradet.evaluation.evaluate import evaluate
from libradet.inference.predict import predict
from tests.helpers.evaluation_data import make_dataset
from tests.helpers.fake_detectors import GroundTruthDetector


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path, num_images=7)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("size", [None, (30, 90), "original"])
def test_ground_truth_detector_has_ap_one(dataset, batch_size, size):
    metrics = evaluate(
        GroundTruthDetector(dataset), dataset, size=size, batch_size=batch_size, num_workers=0, progress=False
    )
    assert metrics["AP"] == pytest.approx(1)
    assert metrics["images"] == 7
    assert metrics["notes"] == []


def test_output_files_are_checked_before_the_model_runs(dataset, tmp_path):
    with pytest.raises(UserError, match="is a folder; name a file"):
        evaluate(GroundTruthDetector(dataset), dataset, coco_results=tmp_path, progress=False)


def test_classes_are_matched_by_name(dataset):
    detector = GroundTruthDetector(dataset, names=["bird", "unicorn", "Cat", "dog"])
    detector.config.class_names = ("bird", "unicorn", "cat", "dog")
    metrics = evaluate(detector, dataset, num_workers=0, progress=False)
    assert metrics["AP"] == pytest.approx(1)
    assert len(metrics["notes"]) == 2
    assert "unicorn" in metrics["notes"][1]


def test_no_common_class_is_refused_before_images_are_read(dataset):
    for image in dataset.images:
        image.path.unlink()
    with pytest.raises(UserError, match=r"no class in common.*horse.*cat, dog, bird"):
        evaluate(GroundTruthDetector(dataset, names=["horse"]), dataset, num_workers=0, progress=False)


def test_coco_results_have_ids_of_the_dataset(dataset, tmp_path):
    path = tmp_path / "new" / "results.json"
    detector = GroundTruthDetector(dataset, jitter=2.0)
    metrics = evaluate(detector, dataset, num_workers=0, progress=False, coco_results=path)
    assert 0 < metrics["AP"] < 1
    assert len(COCO(to_coco(dataset)).load_res(str(path)).anns) == metrics["detections"]
    again = coco_metrics(to_coco(dataset), json.loads(path.read_text()), max_detections=detector.slots)
    assert again == metrics


def test_error_names_damaged_image(dataset):
    dataset.images[3].path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=dataset.images[3].path.name):
        evaluate(GroundTruthDetector(dataset), dataset, num_workers=0, progress=False)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs a second core")
def test_evaluate_equals_predict(random_detector, dataset):
    """Batches of the data loader and single images of predict have the same metrics."""
    # Images of one shape, so that both pad them equally.
    dataset.images[:] = [p for p in dataset.images if p.width > p.height]
    random_detector.train()
    metrics = evaluate(random_detector, dataset, batch_size=2, num_workers=1, progress=False)
    assert random_detector.training
    assert random_detector.device.type == "cpu"
    results = []
    for image in dataset.images:
        found = predict(random_detector, image.path, score_thresh=0.0)
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
    assert metrics["detections"] == len(results) == 3 * random_detector.config.detections.detections_per_img
    for name in ("AP", "AP50", "AR100"):
        assert metrics[name] == pytest.approx(by_hand[name], abs=1e-6)
    assert 0 < metrics["AP"] < 1


def test_bf16(random_detector, dataset):
    exact = evaluate(random_detector, dataset, num_workers=0, progress=False)
    half = evaluate(random_detector, dataset, num_workers=0, progress=False, precision="bf16")
    assert half["AR100"] == pytest.approx(exact["AR100"], abs=0.1)
    assert half["detections"] == exact["detections"]


def test_predict_of_a_real_detector(random_detector):
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    found = random_detector.predict(image, score_thresh=0.0)
    assert len(found) == random_detector.config.detections.detections_per_img
    assert (np.diff(found.confidence) <= 0).all()
    assert (found.xyxy >= 0).all()
    assert (found.xyxy <= [70, 50, 70, 50]).all()
    assert set(found["class_name"]) <= {"cat", "dog", "bird"}
    by_two = random_detector.predict([image, image], score_thresh=0.0)
    np.testing.assert_allclose(by_two[1].xyxy, found.xyxy, atol=1e-3)


def test_progress_bar(dataset, capsys):
    evaluate(GroundTruthDetector(dataset), dataset, num_workers=0, batch_size=7)
    captured = capsys.readouterr()
    assert "predicting" in captured.err
    assert captured.out == ""
