"""Ground truth in columns: the same from a dataset, from its records, and from a training loop's tensors."""

import numpy as np
import pytest
import torch
from known_answers import make_dataset
from test_coco_evaluator import TruthDetector, run

from libradet.data.read import to_coco
from libradet.evaluation.coco_evaluator import CocoEvaluator
from libradet.evaluation.coco_metric import CocoMetric
from libradet.evaluation.coco_metrics import scalars
from libradet.evaluation.ground_truth import truth_of, truth_of_records


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path)


def test_a_data_set_and_its_records_say_the_same(dataset):
    one, other = truth_of(dataset, masks=True), truth_of_records(to_coco(dataset))
    for a, b in zip(one, other, strict=True):
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b)
    assert [p["id"] for p in one.images] == [p["id"] for p in other.images]
    assert (one.categories, one.segmentations, one.numbers) == (other.categories, other.segmentations, other.numbers)


def test_objects_are_counted_by_class(dataset):
    expected = dict.fromkeys(dataset.class_names, 0)
    for image in dataset.images[1:]:
        for label in image.labels[~image.crowd]:
            expected[dataset.class_names[label]] += 1
    assert truth_of(dataset).count_by_class([p.id for p in dataset.images[1:]]) == expected


def test_area_of_the_box_where_none_is_given(dataset):
    records = to_coco(dataset)
    for annotation in records["annotations"]:
        del annotation["area"]
    truth = truth_of_records(records)
    np.testing.assert_array_equal(truth.area, truth.boxes[:, 2] * truth.boxes[:, 3])


def test_metric_of_tensors_equals_that_of_a_data_set(dataset):
    evaluator, metric = CocoEvaluator(dataset), CocoMetric(dataset.class_names, max_detections=110)
    run(evaluator, TruthDetector(dataset, jitter=4.0), list(range(len(dataset))))
    for index, image in enumerate(dataset.images):
        rows = torch.from_numpy(evaluator._rows[index])
        boxes = torch.cat([rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5]], 1)
        labels = torch.tensor([dataset.category_ids.index(int(c)) for c in rows[:, 6]], dtype=torch.int64)
        truth = {
            "boxes": torch.from_numpy(image.boxes),
            "labels": torch.from_numpy(image.labels),
            "iscrowd": torch.from_numpy(image.crowd),
            "area": torch.from_numpy(image.area),
        }
        metric.update([{"boxes": boxes, "scores": rows[:, 5], "labels": labels}], [truth])
    expected, found = scalars(evaluator.compute()), metric.compute()
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, abs=1e-6)
    assert 0 < expected["AP"] < 1
