"""Intervals over images."""

import numpy as np
import pytest

from libradet.analysis.uncertainty import estimate, estimate_gap


def test_images_that_agree_leave_no_doubt():
    assert estimate(np.array([1, 2, 3]), np.array([4, 8, 12]), 0) == {"value": 0.25, "low": 0.25, "high": 0.25}


def test_nothing_to_measure():
    assert estimate(np.zeros(3), np.zeros(3), 0) == {"value": None, "low": None, "high": None}


def test_width_is_that_of_the_standard_error():
    rng = np.random.default_rng(0)
    parts = rng.binomial(20, 0.3, 400)
    found = estimate(parts, np.full(400, 20), 1)
    wanted = 2 * 1.96 * (0.3 * 0.7 / (400 * 20)) ** 0.5
    assert found["high"] - found["low"] == pytest.approx(wanted, rel=0.2)


def test_gaps_are_of_the_same_images():
    shares = np.array([1.0, 5.0, 9.0])
    ones = np.full(3, 10.0)
    gap = estimate_gap((shares + 1, ones), (shares, ones), 0)
    assert gap["value"] == pytest.approx(0.1)
    assert gap["low"] == pytest.approx(0.1), "what images have in common cancels out"
    assert gap["high"] == pytest.approx(0.1)
