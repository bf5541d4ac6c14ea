"""Repeat-factor sampling: the formula of LVIS, and its order over epochs and processes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libradet.data.loader import make_loader
from libradet.data.read import read
from libradet.data.repeat_factors import class_image_fractions, describe_repeats, draw_repeats, repeat_factors
from libradet.data.sampler import GroupedBatchSampler
from libradet.data.synthesis.synthetic import synthesize


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Twelve images with class 0 in all, class 1 in three, class 2 as a crowd in one, and one image without objects."""
    root = tmp_path_factory.mktemp("repeats")
    synthesize(root, train=12, val=2, size=(96, 72), classes=3)
    images = []
    for row, image in enumerate(read(root, "train")[0].images):
        labels = np.array([0, 1 if row < 3 else 0, 2 if row == 5 else 0])
        crowd = np.array([False, False, row == 5])
        boxes = np.array([[5, 5, 20, 20], [10, 10, 30, 30], [20, 20, 40, 40]], np.float32)
        if row == 11:
            labels, crowd, boxes = labels[:0], crowd[:0], boxes[:0]
        count = len(labels)
        images.append(
            replace(
                image, boxes=boxes, labels=labels, crowd=crowd, area=np.ones(count), annotation_ids=np.arange(count)
            )
        )
    return replace(read(root, "train")[0], images=images)


def test_factors_are_those_of_the_formula(dataset):
    np.testing.assert_allclose(class_image_fractions(dataset), [11 / 12, 3 / 12, 0])
    factors = repeat_factors(dataset, 0.5)
    np.testing.assert_allclose(factors[:3], np.sqrt(0.5 / 0.25))
    np.testing.assert_array_equal(factors[3:], 1)
    np.testing.assert_array_equal(repeat_factors(dataset, 0.0), 1)


factor_arrays = st.lists(st.floats(1, 6), min_size=1, max_size=30).map(np.array)


@settings(deadline=None)
@given(factor_arrays, st.integers(0, 1000))
def test_repeats_are_the_factor_rounded_down_or_up(factors, seed):
    repeats = draw_repeats(factors, np.random.default_rng(seed))
    total = int(np.ceil(factors.sum() - 1e-6))
    assert repeats.sum() == total
    scaled = factors * total / factors.sum()
    assert (repeats >= np.floor(scaled - 1e-6)).all()
    assert (repeats <= np.ceil(scaled + 1e-6)).all()
    assert (repeats >= 1).all()


def test_repeats_are_the_factors_on_average():
    factors = np.array([1.0, 1.5, 1.25, 2.75, 1.5])
    draws = [draw_repeats(factors, np.random.default_rng(seed)) for seed in range(4000)]
    np.testing.assert_allclose(np.mean(draws, axis=0), factors, atol=0.04)


@settings(deadline=None)
@given(factor_arrays, st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.data())
def test_order_over_processes_and_after_a_restart(factors, batch_size, world_size, epoch, data):
    groups = np.unique(
        data.draw(st.lists(st.integers(0, 2), min_size=len(factors), max_size=len(factors))), return_inverse=True
    )[1]

    def plan(size, rank, processes, start=0):
        sampler = GroupedBatchSampler(groups, size, True, 3, rank, processes, factors)
        sampler.set_epoch(epoch)
        sampler.set_start(start)
        return list(sampler), len(sampler)

    joint, length = plan(batch_size * world_size, 0, 1)
    ranks = [plan(batch_size, rank, world_size)[0] for rank in range(world_size)]
    assert joint == [[key for batch in step for key in batch] for step in zip(*ranks, strict=True)]
    assert len(joint) == length  # of every epoch
    assert {key.index for batch in joint for key in batch} == set(range(len(factors)))
    start = data.draw(st.integers(0, length))
    assert plan(batch_size * world_size, 0, 1, start)[0] == joint[start:]


def test_occurrences_of_an_image_are_augmented_differently(dataset):
    loader = make_loader(
        dataset, size=(48, 64), batch_size=4, training=True, size_divisible=32, repeat_factor_thresh=1.0, seed=1
    )
    flipped = {}
    for epoch in range(6):
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            for image, index in zip(batch.images, batch.index.tolist(), strict=True):
                flipped.setdefault((epoch, index), []).append(image)
    repeated = [images for images in flipped.values() if len(images) > 1]
    assert any(not torch.equal(images[0], images[1]) for images in repeated)


def test_evaluation_repeats_nothing(dataset):
    loader = make_loader(
        dataset, size=(48, 64), batch_size=5, training=False, size_divisible=32, repeat_factor_thresh=1.0
    )
    assert sorted(i for batch in loader for i in batch.index.tolist()) == list(range(12))


def test_the_summary_says_how_many_images_an_epoch_has(dataset):
    assert describe_repeats(dataset, 1.0) == "repeat factors below 1: 12 images become 16 per epoch"
    nothing = "repeat factors below 0.25 repeat no image, as the rarest class is in 0.25 of them"
    assert describe_repeats(dataset, 0.25) == nothing
