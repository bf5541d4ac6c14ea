"""Which images are looked at, and in whose labels."""

import pytest
import torch
from known_answers import TruthDetector, make_dataset
from tiny_detectors import tiny_batch

from libradet.analysis.choosing import Relabel, spread_evenly, subset, with_objects


@pytest.mark.parametrize(
    ("total", "limit", "rows"), [(10, 4, [0, 3, 6, 9]), (3, 10, [0, 1, 2]), (5, 1, [0]), (1, 1, [0])]
)
def test_rows_are_spread_evenly(total, limit, rows):
    assert spread_evenly(total, limit) == rows


def test_images_with_objects(tmp_path):
    dataset = make_dataset(tmp_path, images=5)
    assert with_objects(dataset, 10) == [0, 2, 3, 4], "the second image is empty"
    assert with_objects(dataset, 2) == [0, 4]
    assert subset(dataset, [4, 0]).images == [dataset.images[4], dataset.images[0]]


def test_labels_become_the_detectors_and_unknown_classes_crowds(tmp_path):
    dataset = make_dataset(tmp_path, names=("cat", "dog", "bird"))
    detector = TruthDetector(dataset, names=["bird", "cat"])
    batch = tiny_batch(boxes=[(0, 0, 9, 9)] * 4, labels=(0, 1, 2, -1), num_images=1)
    found = Relabel(detector, dataset)(batch)
    assert found.labels.tolist() == [[1, 0, 0, -1]]
    assert found.crowd.tolist() == [[False, True, False, False]]
    assert torch.equal(found.boxes, batch.boxes)
