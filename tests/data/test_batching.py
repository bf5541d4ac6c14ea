"""Few canvases, little padding."""

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
def test_every_image_has_a_canvas_that_holds_it(shapes, size_divisible):
    shapes = np.array(shapes)
    canvases = choose_padded_sizes(shapes, size_divisible)
    assert 1 <= len(canvases) <= MAX_PADDED_SIZES
    assert all(side % size_divisible == 0 for canvas in canvases for side in canvas)
    chosen = np.array(canvases)[assign_padded_sizes(shapes, canvases)]
    assert (shapes <= chosen).all()
    assert (chosen <= -(-shapes.max(0) // size_divisible) * size_divisible).all()


@given(shapes_lists)
def test_order_of_the_images_does_not_matter(shapes):
    assert choose_padded_sizes(np.array(shapes), 32) == choose_padded_sizes(np.array(shapes[::-1]), 32)


@given(st.lists(st.tuples(st.sampled_from([300, 350]), st.integers(300, 600)), min_size=1, max_size=40))
def test_no_worse_than_the_best_runs_by_aspect_ratio(shapes):
    """Against all ways to cut the list of shapes, sorted by aspect ratio, into at most three runs."""
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
    canvases = choose_padded_sizes(shapes, 64, limit=3)
    chosen = np.array(canvases)[assign_padded_sizes(shapes, canvases)]
    ours = chosen.prod(1).sum() + MIN_IMAGES_SAVED * sum(h * w for h, w in canvases)
    assert ours <= best


@pytest.mark.parametrize("size_divisible", [32, 64])
def test_one_shape_one_canvas(size_divisible):
    assert choose_padded_sizes(np.array([[320, 427]] * 50), size_divisible) == [(320, 448)]


def test_landscape_and_portrait_are_kept_apart():
    shapes = np.array([[800, 1067]] * 60 + [[1067, 800]] * 30 + [[800, 1199]] * 5)
    assert choose_padded_sizes(shapes, 32) == [(800, 1088), (800, 1216), (1088, 800)] or choose_padded_sizes(
        shapes, 32
    ) == [
        (800, 1216),
        (1088, 800),
    ]


def test_coco_at_full_size_wastes_little(shared_data):
    """As many images as COCO has, in COCO's shapes."""
    dataset, _ = read(shared_data / "coco_cc", "train")
    shapes = np.array([target_size(p.height, p.width, (800, 1333)) for p in dataset.images] * 100)
    canvases = choose_padded_sizes(shapes, 32)
    chosen = np.array(canvases)[assign_padded_sizes(shapes, canvases)]
    assert chosen.prod(1).sum() / shapes.prod(1).sum() < 1.06
