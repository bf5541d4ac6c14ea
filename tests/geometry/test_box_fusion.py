"""Weighted boxes fusion, compared with ensemble-boxes."""

import numpy as np
import pytest

from libradet.geometry.box_fusion import weighted_boxes_fusion

# weighted_boxes_fusion([boxes], [scores], [labels], iou_thr=0.5) of ensemble-boxes 1.0.9 on random_boxes().
FUSED = [
    (0.541000, 0.589000, 0.623000, 0.713000),
    (0.474484, 0.708000, 0.598132, 0.812089),
    (0.164118, 0.146517, 0.272932, 0.278228),
    (0.168468, 0.141727, 0.277433, 0.271339),
    (0.628571, 0.695813, 0.746494, 0.813346),
    (0.515050, 0.300643, 0.631959, 0.423611),
    (0.525000, 0.589000, 0.632000, 0.725000),
    (0.502000, 0.604000, 0.626000, 0.685000),
    (0.498892, 0.597965, 0.630982, 0.686401),
    (0.461320, 0.705224, 0.578768, 0.793536),
    (0.637000, 0.677000, 0.726000, 0.816000),
]
SCORES = [0.847000, 0.693250, 0.689333, 0.686333, 0.645400, 0.582000, 0.474000, 0.429000, 0.322333, 0.250000, 0.231000]
LABELS = [1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0]


def random_boxes():
    """Five objects of 6 boxes each, around the same centers, in fractions of an image."""
    rng = np.random.default_rng(0)
    centers = np.repeat(rng.uniform(0.2, 0.8, (5, 2)), 6, 0) + rng.normal(0, 0.01, (30, 2))
    sides = rng.uniform(0.08, 0.14, (30, 2))
    boxes = np.clip(np.concatenate([centers - sides / 2, centers + sides / 2], 1), 0, 1).round(3)
    return boxes, rng.uniform(0.1, 1, 30).round(3), rng.integers(0, 2, 30)


def test_ensemble_boxes():
    boxes, scores, labels = weighted_boxes_fusion(*random_boxes(), threshold=0.5)
    np.testing.assert_allclose(scores, SCORES, atol=2e-6)
    np.testing.assert_allclose(boxes, FUSED, atol=2e-6)
    assert labels.tolist() == LABELS


def test_average_weighted_by_scores():
    boxes = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]])
    fused, scores, labels = weighted_boxes_fusion(boxes, np.array([0.9, 0.3, 0.7]), np.array([1, 1, 1]), 0.55)
    np.testing.assert_allclose(fused, [[50, 50, 60, 60], [0.25, 0, 10.25, 10]])
    np.testing.assert_allclose(scores, [0.7, 0.6])
    assert labels.tolist() == [1, 1]


def test_classes_are_fused_apart_and_boxes_without_area_dropped():
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10], [3, 3, 3, 9]])
    fused, _, labels = weighted_boxes_fusion(boxes, np.array([0.5, 0.6, 0.9]), np.array([0, 1, 0]), 0.55)
    assert len(fused) == 2
    assert labels.tolist() == [1, 0]


@pytest.mark.parametrize("count", [0, 1])
def test_few_boxes(count):
    boxes = np.array([[1.0, 2, 3, 4]])[:count]
    fused, scores, labels = weighted_boxes_fusion(boxes, np.array([0.5])[:count], np.array([3])[:count], 0.5)
    assert fused.tolist() == boxes.tolist()
    assert (scores.tolist(), labels.tolist()) == ([0.5][:count], [3][:count])
