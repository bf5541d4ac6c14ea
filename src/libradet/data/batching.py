"""Padded batch sizes: a few for many image shapes, so that shapes repeat and little is padding."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

MAX_PADDED_SIZES = 6
"""Three for each orientation, when both landscape and portrait occur."""

MIN_IMAGES_SAVED = 8
"""A further padded size must save more padding than the area of this number of images: each one costs an incomplete
batch, and a new compilation or GPU graph."""


def choose_padded_sizes(
    shapes: Int64[ndarray, "N 2"], size_divisible: int, limit: int = MAX_PADDED_SIZES
) -> list[tuple[int, int]]:
    """Choose padded sizes (height, width; multiples of ``size_divisible``) that hold all shapes (height, width).

    They minimize the total area of all padded images, each padded size counted as MIN_IMAGES_SAVED further images.
    The result depends on the shapes only, so it is the same in every process and in every resumed run.
    """
    rounded = np.maximum(-(-shapes // size_divisible), 1) * size_divisible
    sides, counts = np.unique(rounded, axis=0, return_counts=True)
    by_aspect = np.lexsort((sides[:, 1], sides[:, 0] / sides[:, 1]))
    by_area = np.lexsort((sides[:, 1], sides.prod(1)))
    candidates = [_partition(sides[order], counts[order], limit) for order in (by_aspect, by_area)]
    return min(candidates, key=lambda candidate: candidate[0])[1]


def smallest_padded_sizes(shapes: Int64[ndarray, "N 2"], size_divisible: int) -> list[tuple[int, int]]:
    """Return the smallest padded size of every shape, without a limit on their number."""
    rounded = np.unique(np.maximum(-(-shapes // size_divisible), 1) * size_divisible, axis=0)
    return [(height, width) for height, width in rounded.tolist()]


def assign_padded_sizes(shapes: Int64[ndarray, "N 2"], padded_sizes: Sequence[tuple[int, int]]) -> Int64[ndarray, " N"]:
    """Return, for each shape, the index of the smallest padded size that holds it."""
    table = np.array(padded_sizes, np.int64).reshape(-1, 2)
    fits = (shapes[:, None] <= table).all(2)
    return np.where(fits, table.prod(1), np.iinfo(np.int64).max).argmin(1)


def group_by_padded_size(
    shapes: Int64[ndarray, "N 2"], size_divisible: int, batch_invariant: bool
) -> tuple[list[tuple[int, int]], Int64[ndarray, " N"]]:
    """Return the padded sizes of batches, and the index of that of each shape.

    Args:
        batch_invariant: the smallest padded size of every shape, instead of a few for all.
    """
    choose = smallest_padded_sizes if batch_invariant else choose_padded_sizes
    padded_sizes = choose(shapes, size_divisible)
    return padded_sizes, assign_padded_sizes(shapes, padded_sizes)


def _partition(sides: ndarray, counts: ndarray, limit: int) -> tuple[float, list[tuple[int, int]]]:
    """Split an ordered list of shapes optimally into at most ``limit`` runs, by dynamic programming."""
    n = len(sides)
    best = np.full((limit + 1, n + 1), np.inf)
    best[0, 0] = 0
    origin = np.zeros((limit + 1, n + 1), np.int64)
    for end in range(1, n + 1):
        tail = slice(end - 1, None, -1)
        max_height, max_width = (np.maximum.accumulate(sides[tail, axis])[::-1] for axis in (0, 1))
        num_images = np.cumsum(counts[tail])[::-1]
        cost = max_height * max_width * (num_images + MIN_IMAGES_SAVED)
        for k in range(1, limit + 1):
            totals = best[k - 1, :end] + cost
            origin[k, end] = totals.argmin()
            best[k, end] = totals[origin[k, end]]
    k = int(best[:, n].argmin())
    total, end, padded_sizes = float(best[k, n]), n, []
    for step in range(k, 0, -1):
        start = int(origin[step, end])
        height, width = sides[start:end].max(0).tolist()
        padded_sizes.append((height, width))
        end = start
    return total, sorted(padded_sizes)
