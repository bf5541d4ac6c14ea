"""Means, paired deltas and tables: compared with scipy, numpy and cells computed by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from libradet.experiments.definitions import AblationRow, Experiment
from libradet.experiments.row_results import RowResults, compute_mean, metrics_by_frequency, paired_delta, tabulate

FIRST = AblationRow("plain", "faster_rcnn", {}, None, {"AP": 35.9, "APs": 21.2})
SECOND = AblationRow("balanced", "faster_rcnn", {"lr": 1}, "plain", {"AP": 38.5, "APs": 22.9})
EXPERIMENT = Experiment("t", "A table", "COCO", ("AP", "APs"), ("AP",), (FIRST, SECOND), False)

pairs_of_values = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=12)


@given(pairs_of_values)
def test_interval_is_that_of_the_paired_t_test(pairs):
    first, second = ({i: pair[k] for i, pair in enumerate(pairs)} for k in (0, 1))
    delta = paired_delta(first, second)
    differences = np.array([b - a for a, b in pairs])
    assert delta.value == pytest.approx(differences.mean(), abs=1e-9)
    if differences.std() > 1e-9:
        expected = stats.ttest_rel([b for _, b in pairs], [a for a, _ in pairs]).confidence_interval(0.95)
        assert (delta.low, delta.high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-6)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=12))
def test_mean_and_deviation_equal_numpy(numbers):
    mean = compute_mean(numbers)
    assert mean.value == pytest.approx(np.mean(numbers), abs=1e-9)
    assert mean.deviation == pytest.approx(np.std(numbers, ddof=1), abs=1e-6)
    assert mean.count == len(numbers)


def test_only_complete_pairs_count():
    delta = paired_delta({0: 1.0, 1: 2.0, 2: 9.0}, {0: 2.0, 1: 4.0, 7: 100.0})
    assert (delta.value, delta.count) == (1.5, 2)
    assert paired_delta({0: 1.0}, {1: 1.0}) is None


def test_one_pair_has_no_interval():
    delta = paired_delta({0: 1.0}, {0: 3.0})
    assert (delta.value, delta.low, delta.high, delta.significant) == (2.0, None, None, False)
    assert compute_mean([1.0]).deviation is None
    assert compute_mean([]) is None


def test_equal_deltas_have_an_interval_without_width(recwarn):
    delta = paired_delta({0: 1.0, 1: 2.0}, {0: 3.0, 1: 4.0})
    assert (delta.value, delta.low, delta.high) == (2.0, 2.0, 2.0)
    assert not recwarn.list


def test_significant_if_the_interval_excludes_zero():
    assert paired_delta({0: 0.0, 1: 0.0, 2: 0.0}, {0: 1.0, 1: 1.1, 2: 0.9}).significant
    assert not paired_delta({0: 0.0, 1: 0.0, 2: 0.0}, {0: 1.0, 1: -1.1, 2: 0.9}).significant


def make_table(first, second, failures=None):
    results = [RowResults(FIRST, first, {}), RowResults(SECOND, second, failures or {})]
    return tabulate(EXPERIMENT, results, "A table", ["a note"])


def test_means_deviations_deltas_and_paper_values():
    first = {("d", 0): {"AP": 0.40, "APs": None}, ("d", 1): {"AP": 0.42, "APs": None}}
    second = {("d", 0): {"AP": 0.41, "APs": 0.1}, ("d", 1): {"AP": 0.45, "APs": 0.3}}
    table = make_table(first, second)
    assert table.columns == ["", "runs", "AP", "APs", "delta AP (95 % CI)", "delta, paper"]
    assert table.rows[0] == ["plain", "2", "41.0 ± 1.4 (35.9)", "- (21.2)", "", ""]
    # Deltas 1 and 3: mean 2, standard error 1, and t of one degree of freedom is 12.706.
    delta = "+2.0 [-10.7, +14.7]"
    assert table.rows[1] == ["balanced", "2", "43.0 ± 2.8 (38.5)", "20.0 ± 14.1 (22.9)", delta, "+2.6"]


def test_deltas_of_several_metrics_and_no_column_for_a_paper_without_values():
    rows = [replace(row, paper={}) for row in (FIRST, SECOND)]
    experiment = replace(EXPERIMENT, deltas=("APs", "AP"), rows=tuple(rows))
    metrics = [{("d", 0): {"AP": 0.40, "APs": 0.2}}, {("d", 0): {"AP": 0.45, "APs": 0.1}}]
    results = [RowResults(row, values, {}) for row, values in zip(rows, metrics, strict=True)]
    table = tabulate(experiment, results, "A table", [])
    assert table.columns == ["", "runs", "AP", "APs", "delta APs (95 % CI)", "delta AP (95 % CI)"]
    assert table.rows[1][4:] == ["-10.0", "+5.0"]


def test_groups_of_classes_by_frequency_are_thirds():
    counts = {"a": 900, "b": 5, "c": 50, "d": 2, "e": 800, "f": 60}
    per_class = {"a": 0.8, "b": 0.2, "c": 0.5, "d": 0.4, "e": 0.6, "f": None}
    assert metrics_by_frequency(per_class, counts) == pytest.approx({"APr": 0.3, "APc": 0.5, "APf": 0.7})
    assert metrics_by_frequency({"a": 1.0, "b": 1.0}, {"a": 1, "b": 2}) == {}


@given(st.integers(3, 100))
def test_groups_differ_by_one_class_at_most(number):
    counts = {f"class {i}": i for i in range(number)}
    sizes = [0, 0, 0]
    for i in range(number):
        groups = metrics_by_frequency({f"class {i}": 1.0}, counts)
        sizes["rcf".index(next(iter(groups))[-1])] += 1
    assert max(sizes) - min(sizes) <= 1


def test_one_seed_has_neither_deviation_nor_interval():
    table = make_table({("d", 0): {"AP": 0.4}}, {("d", 0): {"AP": 0.45}})
    assert table.rows[1][2] == "45.0 (38.5)"
    assert table.rows[1][4] == "+5.0"


def test_failed_runs_are_counted_and_named():
    table = make_table({("d", 0): {"AP": 0.4}}, {}, {("d", 0): "the loss is NaN or infinite"})
    assert table.rows[1][1] == "0, 1 failed"
    assert table.notes == ["a note", "balanced, d seed 0: the loss is NaN or infinite"]
