"""What is told apart when a file is compared with its detector, and what is not."""

import numpy as np
import pytest
import torch

from libradet.export.description import Description
from libradet.export.running import Exported
from libradet.export.verifying import agree, compare, drawn_images

BOXES = np.array([[[1.0, 2, 30, 40], [5, 6, 50, 60], [20, 20, 40, 40]]], np.float32)
SCORES = np.array([[0.9, 0.5, 0.0505]], np.float32)
LABELS = np.array([[0, 1, 0]])


def fake(boxes=BOXES, scores=SCORES, labels=LABELS, valid=(True, True, True, False)):
    """Finds the same in every image."""
    about = Description("faster_rcnn", ("a", "b"), (1, 2), "original", True, 0.05, False, False, 0, "0")
    room = [np.pad(a, [(0, 0), (0, 1), *[(0, 0)] * (a.ndim - 2)]) for a in (boxes, scores, labels)]
    outputs = [*room, np.array([valid])]

    def run(arrays):
        return [np.repeat(a, len(arrays[0]), 0) for a in outputs]

    return Exported(about, run)


IMAGES = [np.zeros((80, 90, 3), np.uint8)] * 2 + [np.zeros((70, 90, 3), np.uint8)]


def difference(other):
    found = compare(fake(), other, IMAGES)
    assert found.images == 3
    assert found.detections == 9
    return found


def test_the_same_is_no_difference():
    found = difference(fake())
    assert (found.pixels, found.score) == (0, 0)
    assert found.small


@pytest.mark.parametrize(("shift", "small"), [(0.005, True), (0.02, False)])
def test_boxes_that_lie_elsewhere(shift, small):
    found = difference(fake(BOXES + np.float32(shift)))
    assert found.small is small
    assert not small or found.pixels == pytest.approx(shift, rel=1e-3)


@pytest.mark.parametrize(("more", "small"), [(0.0005, True), (0.002, False)])
def test_scores_that_are_others(more, small):
    assert difference(fake(scores=SCORES + np.float32(more))).small is small


def test_other_classes():
    assert not difference(fake(labels=1 - LABELS)).small


def test_what_is_missing():
    assert not difference(fake(valid=(True, False, True, False))).small
    assert difference(fake(valid=(True, True, False, False))).small, "its score is that of the threshold"


def test_what_one_finds_alone():
    fewer = fake(valid=(True, False, True, False))
    assert not compare(fewer, fake(), IMAGES).small
    assert not compare(fake(valid=(False,) * 4), fake(), IMAGES).small


def test_masks_count():
    ours, theirs = fake(), fake()
    description = ours.description.__class__(**{**vars(ours.description), "masks": True})
    masks = np.linspace(0, 1, 4 * 28 * 28, dtype=np.float32).reshape(1, 4, 28, 28)

    def with_masks(exported, masks):
        return Exported(description, lambda arrays: [*exported._run(arrays), np.repeat(masks, len(arrays[0]), 0)])

    near, far = masks + np.float32(0.001), masks + np.float32(0.1)
    assert compare(with_masks(ours, masks), with_masks(theirs, near), IMAGES).small
    assert not compare(with_masks(ours, masks), with_masks(theirs, far), IMAGES).small


def test_drawn_images_are_lively_and_the_same_every_time():
    first, again = drawn_images(), drawn_images()
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({image.shape for image in first}) == 3
    assert min(torch.from_numpy(image).float().std() for image in first) > 10


@pytest.mark.parametrize(
    ("boxes", "scores", "labels", "again"),
    [
        (BOXES, SCORES, LABELS, 6),
        (BOXES, SCORES * 0.6, LABELS, 6),
        (BOXES[:, ::-1].copy(), SCORES[:, ::-1].copy(), LABELS[:, ::-1].copy(), 6),
        (BOXES, SCORES, 1 - LABELS, 0),
        (BOXES + np.float32([[[0, 0, 25, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]), SCORES, LABELS, 6),  # IoU 29 / 54
        (BOXES + np.float32([[[0, 0, 35, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]), SCORES, LABELS, 3),  # IoU 29 / 64
    ],
)
def test_how_many_of_the_surest_are_found_again(boxes, scores, labels, again):
    found = agree(fake(), fake(boxes, scores, labels), IMAGES)
    assert (found.again, found.detections) == (again, 6)
    assert found.enough == (again >= 3)
