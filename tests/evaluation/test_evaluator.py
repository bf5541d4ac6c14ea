"""CocoEvaluator in one process and in two."""

import json
import pickle

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from libradet.evaluation.evaluator import CocoEvaluator, all_gather_objects
from libradet.structures import Detections
from tests.helpers.distributed_evaluation import evaluate_share
from tests.helpers.evaluation_data import make_batch, make_dataset, make_mask_dataset, update_evaluator
from tests.helpers.fake_detectors import GroundTruthDetector, GroundTruthMaskDetector


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path)


def test_ground_truth_detector_has_ap_one_at_any_scale(dataset):
    evaluator = CocoEvaluator(dataset)
    update_evaluator(evaluator, GroundTruthDetector(dataset), [3, 0], scale=(1.7, 0.6))
    update_evaluator(evaluator, GroundTruthDetector(dataset), [1, 2, 4], scale=(3.1, 3.2))
    metrics = evaluator.compute()
    assert metrics["AP"] == pytest.approx(1)
    assert metrics["images"] == 5
    assert metrics["ground_truths"] == sum((~p.crowd).sum() for p in dataset.images)


def test_results_have_dataset_ids_and_original_pixels(dataset):
    evaluator = CocoEvaluator(dataset)
    update_evaluator(evaluator, GroundTruthDetector(dataset), list(range(5)), scale=(2.0, 0.5))
    results = evaluator.results()
    assert json.loads(json.dumps(results)) == results
    expected = [
        (p.id, dataset.category_ids[label], x0, y0, x1 - x0, y1 - y0)
        for p in dataset.images
        for (x0, y0, x1, y1), label in zip(p.boxes.tolist(), p.labels, strict=True)
    ]
    found = [(r["image_id"], r["category_id"], *r["bbox"]) for r in results]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert all(isinstance(r["image_id"], int) and isinstance(r["category_id"], int) for r in results)


def test_boxes_are_clipped_to_the_image(dataset):
    evaluator = CocoEvaluator(dataset)
    boxes = torch.tensor([[[-9.0, -9.0, 999.0, 999.0]]])
    found = Detections(boxes, torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1).bool())
    evaluator.update(found, make_batch(dataset, [0]))
    assert evaluator.results()[0]["bbox"] == [0, 0, 60, 40]


def test_repeated_images_are_counted_once(dataset):
    once, twice = CocoEvaluator(dataset), CocoEvaluator(dataset)
    detector = GroundTruthDetector(dataset, jitter=2.0)
    update_evaluator(once, detector, [0, 1, 2, 3, 4])
    for rows in ([4, 2], [0, 2], [3, 1, 3]):
        update_evaluator(twice, detector, rows)
    assert once.compute() == twice.compute()
    assert once.results() == twice.results()


def test_only_processed_images_are_evaluated(dataset):
    evaluator = CocoEvaluator(dataset)
    update_evaluator(evaluator, GroundTruthDetector(dataset), [0, 2])
    metrics = evaluator.compute()
    assert metrics["images"] == 2
    assert metrics["AP"] == pytest.approx(1)


def test_class_map(dataset):
    detector = GroundTruthDetector(dataset, names=["bird", "unicorn", "dog", "cat"])
    evaluator = CocoEvaluator(dataset, class_map=[2, -1, 1, 0])
    update_evaluator(evaluator, detector, [0, 1, 2, 3, 4])
    assert evaluator.compute()["AP"] == pytest.approx(1)
    without_dogs = CocoEvaluator(dataset, class_map=[2, -1, -1, 0])
    update_evaluator(without_dogs, detector, [0, 1, 2, 3, 4])
    by_class = without_dogs.compute()["per_class"]
    assert by_class == {"cat": pytest.approx(1), "dog": 0, "bird": pytest.approx(1)}
    assert len(without_dogs.results()) == sum((p.labels != 1).sum() for p in dataset.images)


def test_more_detections_add_recall_metrics(dataset):
    assert GroundTruthDetector(dataset).slots > 100
    evaluator = CocoEvaluator(dataset)
    update_evaluator(evaluator, GroundTruthDetector(dataset), [0, 2])
    metrics = evaluator.compute()
    assert metrics["AR300"] == pytest.approx(1)
    assert "AR1000" not in metrics


def test_no_images(dataset):
    evaluator = CocoEvaluator(dataset)
    assert evaluator.results() == []
    assert evaluator.compute()["AP"] is None


@pytest.fixture(scope="module")
def distributed(tmp_path_factory):
    """A folder with the results of two processes; uneven shares, and one image in both."""
    folder = tmp_path_factory.mktemp("distributed")
    dataset = make_mask_dataset(folder)
    detector = GroundTruthMaskDetector(dataset, jitter=2.0)
    for rank, share in enumerate(([[4, 0], [2]], [[2, 1, 3]])):
        batches = [make_batch(dataset, rows) for rows in share]
        (folder / f"share{rank}").write_bytes(pickle.dumps([(detector(batch), batch) for batch in batches]))
    (folder / "dataset").write_bytes(pickle.dumps(dataset))
    other = mp.get_context("spawn").Process(target=evaluate_share, args=(1, folder))
    other.start()
    evaluate_share(0, folder)
    other.join()
    assert other.exitcode == 0
    return folder, dataset, detector


@pytest.mark.parametrize(("kind", "metric"), [("boxes", "AP"), ("masks", "mask_AP")])
def test_two_processes_compute_the_metrics_of_one(distributed, kind, metric):
    folder, dataset, detector = distributed
    single = CocoEvaluator(dataset, masks=kind == "masks")
    update_evaluator(single, detector, [0, 1, 2, 3, 4])
    expected = [single.compute(), single.results()]
    assert 0 < expected[0][metric] < 1
    for rank in range(2):
        assert json.loads((folder / f"{rank}.json").read_text())[kind] == expected


def test_gather_in_a_single_process():
    assert all_gather_objects("mine") == ["mine"]
