"""Positions of tiles are those of SAHI, and cover the image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libradet.errors import UserError
from libradet.geometry.tiles import Tiles, as_tiles, count_tiles, tile_windows

# Rows and columns of the slices that sahi.slicing.get_slice_bboxes of SAHI 0.12.8 returns, row by row (with
# auto_slice_resolution=False): (height, width, size, overlap), first rows, first columns.
SAHI = [
    ((900, 1200, 640, 0.2), [0, 260], [0, 512, 560]),
    ((640, 640, 640, 0.2), [0], [0]),
    ((641, 640, 640, 0.2), [0, 1], [0]),
    ((500, 2000, 640, 0.25), [0], [0, 480, 960, 1360]),
    ((300, 200, 640, 0.5), [0], [0]),
    ((1000, 1000, 256, 0.0), [0, 256, 512, 744], [0, 256, 512, 744]),
    ((1024, 1024, 512, 0.5), [0, 256, 512], [0, 256, 512]),
    ((1111, 777, 200, 0.37), [0, 126, 252, 378, 504, 630, 756, 882, 911], [0, 126, 252, 378, 504, 577]),
    ((5, 7, 1, 0.5), [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6]),
    ((1280, 1280, 640, 0.0), [0, 640], [0, 640]),
    ((333, 1000, 333, 0.333), [0], [0, 223, 446, 667]),
]
SAHI_COUNTS = {(9000, 12000, 640, 0.2): (18, 24), (97, 61, 10, 0.99): (88, 52)}


@pytest.mark.parametrize(("case", "rows", "columns"), SAHI)
def test_positions_of_sahi(case, rows, columns):
    height, width, size, overlap = case
    windows = tile_windows(height, width, Tiles(size, overlap))
    corners = [(w.left, w.top, w.left + w.width, w.top + w.height) for w in windows]
    assert corners == [(x, y, min(x + size, width), min(y + size, height)) for y in rows for x in columns]
    assert count_tiles(height, width, Tiles(size, overlap)) == len(rows) * len(columns)


@pytest.mark.parametrize(("case", "counts"), SAHI_COUNTS.items())
def test_numbers_of_sahi(case, counts):
    height, width, *tiles = case
    windows = tile_windows(height, width, Tiles(*tiles))
    assert (len({w.top for w in windows}), len({w.left for w in windows})) == counts


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 80), st.floats(0, 0.99))
def test_tiles_cover_the_image_once_and_have_one_size(height, width, size, overlap):
    tiles = Tiles(size, overlap)
    windows = tile_windows(height, width, tiles)
    assert len(set(windows)) == len(windows) == count_tiles(height, width, tiles)
    assert {(w.height, w.width) for w in windows} == {(min(size, height), min(size, width))}
    covered = np.zeros((height, width), int)
    for window in windows:
        assert covered[window.slices].shape == (window.height, window.width), "inside the image"
        covered[window.slices] += 1
    assert covered.min() >= 1


def test_adjacent_tiles_share_the_overlap():
    windows = tile_windows(100, 1000, Tiles(100, 0.25))
    assert [w.left for w in windows] == [*range(0, 900, 75), 900]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ((0, 0.2), "size 0: it must be a whole number"),
        ((0.5, 0.2), "size 0.5: it must be a whole number"),
        ((float("nan"), 0.2), "size nan"),
        ((640, 1.0), "overlap 1: it must be a fraction"),
        ((640, -0.1), "overlap -0.1"),
        ((640, float("nan")), "overlap nan"),
        ([640.0], "a size in pixels and an overlap"),
    ],
)
def test_invalid_tiles(value, words):
    with pytest.raises(UserError, match=words):
        as_tiles(value)


def test_pairs_of_numbers():
    assert as_tiles([640.0, 0]) == Tiles(640, 0.0)
