"""Few canvases for many image shapes, so that shapes repeat and little is padding."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

MAX_CANVASES = 6
"""Three for each orientation, when landscape and portrait both occur."""

WORTH = 8
"""A further canvas must spare more padding than the area of this many images: each one costs a batch that
is not full, and a compiler or a GPU graph works it out anew."""


def choose_canvases(shapes: Int64[ndarray, "N 2"], divisor: int, limit: int = MAX_CANVASES) -> list[tuple[int, int]]:
    """Canvases (height, width; multiples of ``divisor``) of which one holds each of the shapes (height, width).

    They minimize the area of all images on their canvases, each canvas counted as WORTH images more.
    The result depends on the shapes only, so every process and every resumed run comes to the same.
    """
    rounded = np.maximum(-(-shapes // divisor), 1) * divisor
    sides, counts = np.unique(rounded, axis=0, return_counts=True)
    by_aspect = np.lexsort((sides[:, 1], sides[:, 0] / sides[:, 1]))
    by_area = np.lexsort((sides[:, 1], sides.prod(1)))
    plans = [_partition(sides[order], counts[order], limit) for order in (by_aspect, by_area)]
    return min(plans, key=lambda plan: plan[0])[1]


def own_canvases(shapes: Int64[ndarray, "N 2"], divisor: int) -> list[tuple[int, int]]:
    """The smallest canvas of every shape, as many as there are."""
    rounded = np.unique(np.maximum(-(-shapes // divisor), 1) * divisor, axis=0)
    return [(height, width) for height, width in rounded.tolist()]


def assign_canvases(shapes: Int64[ndarray, "N 2"], canvases: Sequence[tuple[int, int]]) -> Int64[ndarray, " N"]:
    """For each shape, the number of the smallest canvas that holds it."""
    table = np.array(canvases, np.int64).reshape(-1, 2)
    fits = (shapes[:, None] <= table).all(2)
    return np.where(fits, table.prod(1), np.iinfo(np.int64).max).argmin(1)


def _partition(sides: ndarray, counts: ndarray, limit: int) -> tuple[float, list[tuple[int, int]]]:
    """Best split of an ordered list of shapes into at most ``limit`` runs, by dynamic programming."""
    n = len(sides)
    best = np.full((limit + 1, n + 1), np.inf)
    best[0, 0] = 0
    origin = np.zeros((limit + 1, n + 1), np.int64)
    for end in range(1, n + 1):
        tail = slice(end - 1, None, -1)
        tall, wide = (np.maximum.accumulate(sides[tail, axis])[::-1] for axis in (0, 1))
        held = np.cumsum(counts[tail])[::-1]
        cost = tall * wide * (held + WORTH)
        for k in range(1, limit + 1):
            totals = best[k - 1, :end] + cost
            origin[k, end] = totals.argmin()
            best[k, end] = totals[origin[k, end]]
    k = int(best[:, n].argmin())
    total, end, canvases = float(best[k, n]), n, []
    for step in range(k, 0, -1):
        start = int(origin[step, end])
        height, width = sides[start:end].max(0).tolist()
        canvases.append((height, width))
        end = start
    return total, sorted(canvases)
