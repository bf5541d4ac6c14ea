"""The grid of ground truth and predictions (evaluation/visualize.py)."""

import pytest

from libradet.evaluation.visualize import ground_truth_detections, plot_predictions_grid, select_images
from tests.helpers.evaluation_data import make_dataset


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path, num_images=7)


def test_selected_images_are_evenly_spaced(dataset):
    assert [p.id for p in select_images(dataset, 3)] == [100, 109, 118]
    assert len(select_images(dataset, 99)) == sum(len(p.boxes) > 0 for p in dataset.images) == 6
    empty = make_dataset(dataset.root, num_images=2)
    del empty.images[0]
    assert select_images(empty, 3) == empty.images


def test_crowd_regions_are_marked(dataset):
    shown = ground_truth_detections(dataset.images[0], dataset.class_names)
    assert len(shown) == len(dataset.images[0].boxes) == 4
    assert [name.endswith(" (crowd)") for name in shown["class_name"]] == [False, False, False, True]


def test_grid_of_a_dataset(random_detector, dataset):
    grid = plot_predictions_grid(random_detector, dataset, num_images=2, score_thresh=0.0)
    landscape = [p.width >= p.height for p in select_images(dataset, 2)]
    assert landscape == [True, True]
    assert grid.shape[0] > 2 * 400
    # Both sides differ, since random weights do not find what is there.
    left, right = grid[130:500, :640], grid[130:500, 656 : 656 + 640]
    assert (left != right).any()
