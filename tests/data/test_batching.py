"""Padded sizes: few sizes and little padding."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libradet.data.batching import MAX_PADDED_SIZES, MIN_IMAGES_SAVED, assign_padded_sizes, choose_padded_sizes
from libradet.data.read import read
from libradet.data.transforms.resize import target_size

shapes_lists = st.lists(st.tuples(st.integers(1, 1333), st.integers(1, 1333)), min_size=1, max_size=60)


@given(shapes_lists, st.sampled_from([1, 32, 64]))
def test_every_image_has_a_padded_size(shapes, size_divisible):
    shapes = np.array(shapes)
    padded_sizes = choose_padded_sizes(shapes, size_divisible)
    assert 1 <= len(padded_sizes) <= MAX_PADDED_SIZES
    assert all(side % size_divisible == 0 for size in padded_sizes for side in size)
    chosen = np.array(padded_sizes)[assign_padded_sizes(shapes, padded_sizes)]
    assert (shapes <= chosen).all()
    assert (chosen <= -(-shapes.max(0) // size_divisible) * size_divisible).all()


@given(shapes_lists)
def test_padded_sizes_are_independent_of_order(shapes):
    assert choose_padded_sizes(np.array(shapes), 32) == choose_padded_sizes(np.array(shapes[::-1]), 32)


@given(st.lists(st.tuples(st.sampled_from([300, 350]), st.integers(300, 600)), min_size=1, max_size=40))
def test_padding_is_at_most_that_of_the_best_partition(shapes):
    """Compare with all partitions of the shapes, sorted by aspect ratio, into at most three runs."""
    shapes = np.array(shapes)
    rounded = -(-shapes // 64) * 64
    sides, counts = np.unique(rounded, axis=0, return_counts=True)
    order = np.argsort(sides[:, 0] / sides[:, 1], kind="stable")
    sides, counts = sides[order], counts[order]

    def cost(cuts):
        edges = [0, *cuts, len(sides)]
        runs = [slice(a, b) for a, b in pairwise(edges)]
        return sum(sides[run].max(0).prod() * (counts[run].sum() + MIN_IMAGES_SAVED) for run in runs)

    best = min(cost(cuts) for k in range(3) for cuts in combinations(range(1, len(sides)), k))
    padded_sizes = choose_padded_sizes(shapes, 64, limit=3)
    chosen = np.array(padded_sizes)[assign_padded_sizes(shapes, padded_sizes)]
    ours = chosen.prod(1).sum() + MIN_IMAGES_SAVED * sum(h * w for h, w in padded_sizes)
    assert ours <= best


@pytest.mark.parametrize("size_divisible", [32, 64])
def test_one_shape_gives_one_padded_size(size_divisible):
    assert choose_padded_sizes(np.array([[320, 427]] * 50), size_divisible) == [(320, 448)]


def test_landscape_and_portrait_are_separate():
    shapes = np.array([[800, 1067]] * 60 + [[1067, 800]] * 30 + [[800, 1199]] * 5)
    assert choose_padded_sizes(shapes, 32) == [(800, 1088), (800, 1216), (1088, 800)] or choose_padded_sizes(
        shapes, 32
    ) == [
        (800, 1216),
        (1088, 800),
    ]


def test_little_padding_on_coco(shared_data):
    """Shapes and number of images as in COCO."""
    dataset, _ = read(shared_data / "coco_cc", "train")
    shapes = np.array([target_size(p.height, p.width, (800, 1333)) for p in dataset.images] * 100)
    padded_sizes = choose_padded_sizes(shapes, 32)
    chosen = np.array(padded_sizes)[assign_padded_sizes(shapes, padded_sizes)]
    assert chosen.prod(1).sum() / shapes.prod(1).sum() < 1.06
