"""Ground truth columns from a dataset and from COCO records."""

import numpy as np
import pytest

from libradet.data.formats.coco import to_coco
from libradet.evaluation.ground_truth import ground_truth_from_coco, ground_truth_from_dataset
from tests.helpers.evaluation_data import make_dataset


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path)


def test_dataset_and_coco_records_are_equal(dataset):
    one, other = ground_truth_from_dataset(dataset, masks=True), ground_truth_from_coco(to_coco(dataset))
    for a, b in zip(one, other, strict=True):
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b)
    assert [p["id"] for p in one.images] == [p["id"] for p in other.images]
    assert one.categories == other.categories
    assert one.segmentations == other.segmentations
    assert one.annotation_ids == other.annotation_ids


def test_count_by_class(dataset):
    expected = dict.fromkeys(dataset.class_names, 0)
    for image in dataset.images[1:]:
        for label in image.labels[~image.crowd]:
            expected[dataset.class_names[label]] += 1
    assert ground_truth_from_dataset(dataset).count_by_class([2, 3, 4, 5]) == expected


def test_missing_area_is_that_of_the_box(dataset):
    records = to_coco(dataset)
    for annotation in records["annotations"]:
        del annotation["area"]
    truth = ground_truth_from_coco(records)
    np.testing.assert_array_equal(truth.area, truth.boxes[:, 2] * truth.boxes[:, 3])
