"""Overlaps that are thresholds themselves. torch computes them in 32 bits and compares in 64, others do not."""

import numpy as np


def single_threshold(threshold: float) -> float:
    """In 32 bits: the largest number up to ``threshold``, which only what exceeds ``threshold`` exceeds."""
    nearest = np.float32(threshold)
    return float(np.nextafter(nearest, np.float32(-1)) if float(nearest) > threshold else nearest)


def double_threshold(threshold: float) -> float:
    """In 64 bits: what is larger is larger than ``threshold`` when it is rounded to 32."""
    below = np.float32(single_threshold(threshold))
    return (float(below) + float(np.nextafter(below, np.float32(2)))) / 2
