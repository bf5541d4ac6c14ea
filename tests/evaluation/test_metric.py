"""CocoMetric, the torchmetrics class, against CocoEvaluator."""

import pytest
import torch

from libradet.errors import UserError
from libradet.evaluation.coco import scalars
from libradet.evaluation.evaluator import CocoEvaluator
from libradet.evaluation.metric import CocoMetric
from tests.helpers.evaluation_data import make_dataset, update_evaluator
from tests.helpers.fake_detectors import GroundTruthDetector


def test_metric_equals_evaluator(tmp_path):
    dataset = make_dataset(tmp_path)
    evaluator, metric = CocoEvaluator(dataset), CocoMetric(dataset.class_names, max_detections=110)
    update_evaluator(evaluator, GroundTruthDetector(dataset, jitter=4.0), list(range(len(dataset))))
    for index, image in enumerate(dataset.images):
        rows = torch.from_numpy(evaluator._rows[index])
        boxes = torch.cat([rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5]], 1)
        labels = torch.tensor([int(c) - 1 for c in rows[:, 6]], dtype=torch.int64)
        truth = {
            "boxes": torch.from_numpy(image.boxes),
            "labels": torch.from_numpy(image.labels),
            "iscrowd": torch.from_numpy(image.crowd),
            "area": torch.from_numpy(image.area),
        }
        metric.update([{"boxes": boxes, "scores": rows[:, 5], "labels": labels}], [truth])
    expected, computed = scalars(evaluator.compute()), metric.compute()
    for name, value in expected.items():
        assert float(computed[name]) == pytest.approx(value, abs=1e-6)
    assert 0 < expected["AP"] < 1


@pytest.mark.parametrize(
    ("labels", "class_names", "message"),
    [
        ([1, 2], ["cat", "dog"], "labels have 2, and they are 0 to 1"),
        ([0, -1], ["cat", "dog"], "labels have -1, and they are 0 to 1"),
        ([0, -1], None, "labels have -1, and they count from 0"),
    ],
)
@pytest.mark.parametrize("part", ["preds", "target"])
def test_labels_that_would_not_be_counted_are_refused(labels, class_names, message, part):
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    right, wrong = {"boxes": boxes, "labels": torch.tensor([0, 0])}, {"boxes": boxes, "labels": torch.tensor(labels)}
    preds, target = (wrong, right) if part == "preds" else (right, wrong)
    metric = CocoMetric(class_names)
    metric.update([preds | {"scores": torch.tensor([0.9, 0.8])}], [target])
    with pytest.raises(UserError, match=message):
        metric.compute()
