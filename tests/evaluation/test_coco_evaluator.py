"""From batches to COCO's numbers, in one process and in several."""

import json
import pickle

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from known_answers import TruthDetector, make_dataset
from measure_share import measure_share

from libradet.data.batch import Batch
from libradet.evaluation.coco_evaluator import CocoEvaluator, gather_objects
from libradet.inference.detections import Detections


def make_batch(dataset, rows, scale=(1.0, 1.0)):
    images = [dataset.images[row] for row in rows]
    scales = torch.tensor([scale] * len(rows))
    sizes = torch.tensor([[p.height, p.width] for p in images])
    return Batch(
        images=torch.zeros(len(rows), 3, 1, 1),
        sizes=(sizes * scales.flip(1)).round().long(),
        boxes=torch.zeros(len(rows), 1, 4),
        labels=torch.full((len(rows), 1), -1),
        crowd=torch.zeros(len(rows), 1, dtype=torch.bool),
        index=torch.tensor(rows),
        scales=scales,
    )


def run(evaluator, detector, rows, **kwargs):
    with torch.no_grad():
        batch = make_batch(evaluator.dataset, rows, **kwargs)
        evaluator.update(detector.eval()(batch), batch)


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path)


def test_perfect_detector_scores_one_whatever_the_scale(dataset):
    evaluator = CocoEvaluator(dataset)
    run(evaluator, TruthDetector(dataset), [3, 0], scale=(1.7, 0.6))
    run(evaluator, TruthDetector(dataset), [1, 2, 4], scale=(3.1, 3.2))
    metrics = evaluator.compute()
    assert metrics["AP"] == pytest.approx(1)
    assert metrics["images"] == 5
    assert metrics["ground_truths"] == sum((~p.crowd).sum() for p in dataset.images)


def test_results_carry_the_data_sets_ids_and_original_pixels(dataset):
    evaluator = CocoEvaluator(dataset)
    run(evaluator, TruthDetector(dataset), list(range(5)), scale=(2.0, 0.5))
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


def test_boxes_end_at_the_images_edge(dataset):
    evaluator = CocoEvaluator(dataset)
    boxes = torch.tensor([[[-9.0, -9.0, 999.0, 999.0]]])
    found = Detections(boxes, torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1).bool())
    evaluator.update(found, make_batch(dataset, [0]))
    assert evaluator.results()[0]["bbox"] == [0, 0, 60, 40]


def test_an_image_seen_twice_counts_once(dataset):
    once, twice = CocoEvaluator(dataset), CocoEvaluator(dataset)
    detector = TruthDetector(dataset, jitter=2.0)
    run(once, detector, [0, 1, 2, 3, 4])
    for rows in ([4, 2], [0, 2], [3, 1, 3]):
        run(twice, detector, rows)
    assert once.compute() == twice.compute()
    assert once.results() == twice.results()


def test_only_images_that_were_seen_count(dataset):
    evaluator = CocoEvaluator(dataset)
    run(evaluator, TruthDetector(dataset), [0, 2])
    metrics = evaluator.compute()
    assert metrics["images"] == 2
    assert metrics["AP"] == pytest.approx(1)


def test_classes_are_mapped_and_unknown_ones_left_out(dataset):
    detector = TruthDetector(dataset, names=["bird", "unicorn", "dog", "cat"])
    evaluator = CocoEvaluator(dataset, class_map=[2, -1, 1, 0])
    run(evaluator, detector, [0, 1, 2, 3, 4])
    assert evaluator.compute()["AP"] == pytest.approx(1)
    without_dogs = CocoEvaluator(dataset, class_map=[2, -1, -1, 0])
    run(without_dogs, detector, [0, 1, 2, 3, 4])
    by_class = without_dogs.compute()["per_class"]
    assert by_class == {"cat": pytest.approx(1), "dog": 0, "bird": pytest.approx(1)}
    assert len(without_dogs.results()) == sum((p.labels != 1).sum() for p in dataset.images)


def test_detectors_with_many_slots_are_asked_for_more_recall(dataset):
    assert TruthDetector(dataset).slots > 100
    evaluator = CocoEvaluator(dataset)
    run(evaluator, TruthDetector(dataset), [0, 2])
    metrics = evaluator.compute()
    assert metrics["AR300"] == pytest.approx(1)
    assert "AR1000" not in metrics


def test_before_any_image_there_is_nothing(dataset):
    evaluator = CocoEvaluator(dataset)
    assert evaluator.results() == []
    assert evaluator.compute()["AP"] is None


def test_two_processes_measure_what_one_does(dataset, tmp_path):
    detector = TruthDetector(dataset, jitter=2.0)
    # Uneven shares, one image in both.
    for rank, share in enumerate(([[4, 0], [2]], [[2, 1, 3]])):
        batches = [make_batch(dataset, rows) for rows in share]
        pickle.dump([(detector(batch), batch) for batch in batches], (tmp_path / f"share{rank}").open("wb"))
    pickle.dump(dataset, (tmp_path / "dataset").open("wb"))
    other = mp.get_context("spawn").Process(target=measure_share, args=(1, tmp_path))
    other.start()
    measure_share(0, tmp_path)
    other.join()
    assert other.exitcode == 0
    alone = CocoEvaluator(dataset)
    run(alone, detector, [0, 1, 2, 3, 4])
    expected = [alone.compute(), alone.results()]
    assert 0 < expected[0]["AP"] < 1
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == expected


def test_gathering_alone_is_trivial():
    assert gather_objects("mine") == ["mine"]
