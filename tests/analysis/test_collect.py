"""Selection of images, and labels mapped to those of the detector."""

import pytest
import torch

from libradet.analysis.collect import RemapLabels, select_images_with_objects, subset
from libradet.utils.spacing import evenly_spaced
from tests.helpers.evaluation_data import make_dataset
from tests.helpers.fake_detectors import GroundTruthDetector
from tests.helpers.tiny_detectors import tiny_batch


@pytest.mark.parametrize(
    ("total", "limit", "rows"), [(10, 4, [0, 3, 6, 9]), (3, 10, [0, 1, 2]), (5, 1, [0]), (1, 1, [0])]
)
def test_rows_are_evenly_spaced(total, limit, rows):
    assert evenly_spaced(total, limit) == rows


def test_images_with_objects(tmp_path):
    dataset = make_dataset(tmp_path, 5)
    assert select_images_with_objects(dataset, 10) == [0, 2, 3, 4], "the second image is empty"
    assert select_images_with_objects(dataset, 2) == [0, 4]
    assert subset(dataset, [4, 0]).images == [dataset.images[4], dataset.images[0]]


def test_labels_are_mapped_to_the_detector_and_unknown_classes_become_crowds(tmp_path):
    dataset = make_dataset(tmp_path, names=("cat", "dog", "bird"))
    detector = GroundTruthDetector(dataset, names=["bird", "cat"])
    batch = tiny_batch(boxes=[(0, 0, 9, 9)] * 4, labels=(0, 1, 2, -1), num_images=1)
    remapped = RemapLabels(detector, dataset)(batch)
    assert remapped.labels.tolist() == [[1, 0, 0, -1]]
    assert remapped.crowd.tolist() == [[False, True, False, False]]
    assert torch.equal(remapped.boxes, batch.boxes)
