"""Evenly spaced selections."""

import numpy as np


def evenly_spaced(total: int, limit: int) -> list[int]:
    """Return at most ``limit`` of the indices 0..total-1 at equal distances, including the first and the last."""
    return np.linspace(0, total - 1, min(limit, total)).round().astype(int).tolist()
