"""Which differences between a file and its detector are detected, and which are tolerated."""

import numpy as np
import pytest
import torch

from libradet.export.exported_model import ExportedModel
from libradet.export.metadata import ExportMetadata
from libradet.export.verification import QuantizationAgreement, detection_agreement, max_difference, synthetic_images

BOXES = np.array([[[1.0, 2, 30, 40], [5, 6, 50, 60], [20, 20, 40, 40]]], np.float32)
SCORES = np.array([[0.9, 0.5, 0.0505]], np.float32)
LABELS = np.array([[0, 1, 0]])


def fake_model(boxes=BOXES, scores=SCORES, labels=LABELS, valid=(True, True, True, False)):
    """Return a model with the same detections in every image."""
    metadata = ExportMetadata("faster_rcnn", ("a", "b"), (1, 2), "original", True, 0.05, False, False, 0, "0")
    padded = [np.pad(a, [(0, 0), (0, 1), *[(0, 0)] * (a.ndim - 2)]) for a in (boxes, scores, labels)]
    outputs = [*padded, np.array([valid])]

    def run(arrays):
        return [np.repeat(a, len(arrays[0]), 0) for a in outputs]

    return ExportedModel(metadata, run)


IMAGES = [np.zeros((80, 90, 3), np.uint8)] * 2 + [np.zeros((70, 90, 3), np.uint8)]


def difference(other):
    result = max_difference(fake_model(), other, IMAGES)
    assert result.images == 3
    assert result.detections == 9
    return result


def test_equal_outputs():
    result = difference(fake_model())
    assert (result.pixels, result.score) == (0, 0)
    assert result.is_small


@pytest.mark.parametrize(("shift", "small"), [(0.005, True), (0.02, False)])
def test_shifted_boxes(shift, small):
    result = difference(fake_model(BOXES + np.float32(shift)))
    assert result.is_small is small
    assert not small or result.pixels == pytest.approx(shift, rel=1e-3)


@pytest.mark.parametrize(("more", "small"), [(0.0005, True), (0.002, False)])
def test_changed_scores(more, small):
    assert difference(fake_model(scores=SCORES + np.float32(more))).is_small is small


def test_changed_classes():
    assert not difference(fake_model(labels=1 - LABELS)).is_small


def test_a_changed_class_of_the_only_detection():
    one = (True, False, False, False)
    assert max_difference(fake_model(valid=one), fake_model(labels=1 - LABELS, valid=one), IMAGES).pixels == np.inf


@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize("of_boxes", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite(row, of_boxes, value):
    boxes, scores = BOXES.copy(), SCORES.copy()
    (boxes if of_boxes else scores)[0, row] = value
    other = fake_model(boxes, scores)
    assert not difference(other).is_small
    assert not max_difference(other, fake_model(), IMAGES).is_small


def test_missing_detections():
    assert not difference(fake_model(valid=(True, False, True, False))).is_small
    assert difference(fake_model(valid=(True, True, False, False))).is_small, "its score is near the threshold"


def test_additional_detections():
    fewer = fake_model(valid=(True, False, True, False))
    assert not max_difference(fewer, fake_model(), IMAGES).is_small
    assert not max_difference(fake_model(valid=(False,) * 4), fake_model(), IMAGES).is_small


def test_changed_masks():
    ours, theirs = fake_model(), fake_model()
    metadata = ours.metadata.__class__(**{**vars(ours.metadata), "has_masks": True})
    masks = np.linspace(0, 1, 4 * 28 * 28, dtype=np.float32).reshape(1, 4, 28, 28)

    def with_masks(exported, masks):
        return ExportedModel(metadata, lambda arrays: [*exported._run(arrays), np.repeat(masks, len(arrays[0]), 0)])

    near, far = masks + np.float32(0.001), masks + np.float32(0.1)
    assert max_difference(with_masks(ours, masks), with_masks(theirs, near), IMAGES).is_small
    assert not max_difference(with_masks(ours, masks), with_masks(theirs, far), IMAGES).is_small


def test_synthetic_images_are_varied_and_reproducible():
    first, again = synthetic_images(), synthetic_images()
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({image.shape for image in first}) == 3
    assert min(torch.from_numpy(image).float().std() for image in first) > 10


@pytest.mark.parametrize(
    ("boxes", "scores", "labels", "matched"),
    [
        (BOXES, SCORES, LABELS, 6),
        (BOXES, SCORES * 0.6, LABELS, 6),
        (BOXES[:, ::-1].copy(), SCORES[:, ::-1].copy(), LABELS[:, ::-1].copy(), 6),
        (BOXES, SCORES, 1 - LABELS, 0),
        (BOXES + np.float32([[[0, 0, 25, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]), SCORES, LABELS, 6),  # IoU 29 / 54
        (BOXES + np.float32([[[0, 0, 35, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]), SCORES, LABELS, 3),  # IoU 29 / 64
    ],
)
def test_number_of_reproduced_detections(boxes, scores, labels, matched):
    result = detection_agreement(fake_model(), fake_model(boxes, scores, labels), IMAGES)
    assert (result.matched, result.detections) == (matched, 6)
    assert result.is_sufficient == (matched >= 3)


def test_agreement_of_a_model_with_low_scores():
    model, other = fake_model(scores=SCORES * 0.1), fake_model(BOXES, SCORES * 0.1, 1 - LABELS)
    result = detection_agreement(model, model, IMAGES)
    assert result.score_thresh == pytest.approx(SCORES.max() * 0.05)
    assert result.detections == result.matched > 0
    assert result.is_sufficient
    assert not detection_agreement(model, other, IMAGES).is_sufficient


def test_agreement_needs_a_detection():
    assert not QuantizationAgreement(0, 0).is_sufficient
