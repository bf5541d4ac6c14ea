"""Bootstrap intervals over images."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from libradet.analysis.uncertainty import RESAMPLES, estimate, estimate_gap, resample_share


def test_images_with_equal_shares_have_an_interval_of_zero_width():
    assert estimate(np.array([1, 2, 3]), np.array([4, 8, 12]), 0) == {"value": 0.25, "low": 0.25, "high": 0.25}


def test_a_single_image_has_an_interval_of_zero_width():
    assert estimate(np.array([1]), np.array([4]), 0) == {"value": 0.25, "low": 0.25, "high": 0.25}


def test_nothing_to_measure():
    assert estimate(np.zeros(3), np.zeros(3), 0) == {"value": None, "low": None, "high": None}


def test_width_is_that_of_the_standard_error():
    rng = np.random.default_rng(0)
    counts = rng.binomial(20, 0.3, 400)
    interval = estimate(counts, np.full(400, 20), 1)
    expected = 2 * 1.96 * (0.3 * 0.7 / (400 * 20)) ** 0.5
    assert interval["high"] - interval["low"] == pytest.approx(expected, rel=0.2)


def test_resamples_are_those_of_scipy():
    rng = np.random.default_rng(0)
    totals = rng.integers(1, 20, 50)
    counts = rng.integers(0, totals + 1)
    scipy = bootstrap(
        (counts, totals),
        lambda c, t, axis: c.sum(axis) / t.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        method="percentile",
        random_state=np.random.default_rng(7),
    )
    assert np.array_equal(resample_share(counts, totals, seed=7), scipy.bootstrap_distribution)
    interval = estimate(counts, totals, seed=7)
    assert (interval["low"], interval["high"]) == pytest.approx(tuple(scipy.confidence_interval))


def test_gaps_are_of_the_same_images():
    counts = np.array([1.0, 5.0, 9.0])
    totals = np.full(3, 10.0)
    gap = estimate_gap((counts + 1, totals), (counts, totals), 0)
    assert gap["value"] == pytest.approx(0.1)
    assert gap["low"] == pytest.approx(0.1), "what images have in common cancels out"
    assert gap["high"] == pytest.approx(0.1)
