"""Means and paired differences, beside scipy's and numpy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from libradet.experiments.statistics import difference, mean

values = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=12)


@given(values)
def test_the_interval_is_that_of_the_paired_t_test(pairs):
    first, second = ({i: pair[k] for i, pair in enumerate(pairs)} for k in (0, 1))
    found = difference(first, second)
    gains = np.array([b - a for a, b in pairs])
    assert found.value == pytest.approx(gains.mean(), abs=1e-9)
    if gains.std() > 1e-9:
        expected = stats.ttest_rel([b for _, b in pairs], [a for a, _ in pairs]).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-6)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=12))
def test_mean_and_deviation_are_numpys(numbers):
    found = mean(numbers)
    assert found.value == pytest.approx(np.mean(numbers), abs=1e-9)
    assert found.deviation == pytest.approx(np.std(numbers, ddof=1), abs=1e-6)
    assert found.count == len(numbers)


def test_only_pairs_count():
    found = difference({0: 1.0, 1: 2.0, 2: 9.0}, {0: 2.0, 1: 4.0, 7: 100.0})
    assert (found.value, found.count) == (1.5, 2)
    assert difference({0: 1.0}, {1: 1.0}) is None


def test_one_pair_has_no_interval():
    found = difference({0: 1.0}, {0: 3.0})
    assert (found.value, found.low, found.high, found.decided) == (2.0, None, None, False)
    assert mean([1.0]).deviation is None
    assert mean([]) is None


def test_decided_is_what_leaves_zero_out():
    assert difference({0: 0.0, 1: 0.0, 2: 0.0}, {0: 1.0, 1: 1.1, 2: 0.9}).decided
    assert not difference({0: 0.0, 1: 0.0, 2: 0.0}, {0: 1.0, 1: -1.1, 2: 0.9}).decided
