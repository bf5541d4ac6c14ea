"""Results of table rows: means over seeds, paired deltas with confidence intervals, and tables next to the paper."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from libradet.experiments.definitions import AblationRow, Experiment
from libradet.utils.tables import TextTable

CONFIDENCE = 0.95

Key = Hashable
"""What is paired in a comparison: a seed, or a dataset and a seed."""


@dataclass(frozen=True)
class Mean:
    """Mean of ``count`` values and their sample standard deviation, which is None for one value."""

    value: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Delta:
    """Mean difference of ``count`` pairs and its 95 % confidence interval (Student's t), which is None for one pair."""

    value: float
    low: float | None
    high: float | None
    count: int

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass
class RowResults:
    """Metrics of a row's finished runs (0 to 1) and the errors of failed ones, by key."""

    row: AblationRow
    metrics: dict[Key, dict[str, Any]]
    failures: dict[Key, str]

    def values(self, metric: str) -> dict[Key, float]:
        """Return the values of one metric in percent, where it is defined."""
        return {key: 100 * v for key, m in self.metrics.items() if (v := m.get(metric)) is not None}

    def mean(self, metric: str) -> Mean | None:
        """Return the mean over all keys; None without values."""
        return compute_mean(list(self.values(metric).values()))


def metrics_by_frequency(per_class: Mapping[str, float | None], counts: Mapping[str, int]) -> dict[str, float]:
    """Return APr, APc and APf: mean AP of rare, common and frequent classes, as LVIS names them.

    LVIS has fixed limits, for 1,203 classes; here each group is a third of the classes, by rising number of training
    objects. Classes whose AP is not defined are left out; with less than three classes there are no groups.

    Args:
        per_class: AP by class.
        counts: number of training objects by class.
    """
    by_count = sorted(counts, key=lambda name: counts[name])
    if len(by_count) < 3:
        return {}
    ends = [round(len(by_count) * k / 3) for k in range(4)]
    groups = {f"AP{group}": by_count[a:b] for group, a, b in zip("rcf", ends, ends[1:], strict=False)}
    values = {name: [ap for cls in group if (ap := per_class.get(cls)) is not None] for name, group in groups.items()}
    return {name: fmean(aps) for name, aps in values.items() if aps}


def compute_mean(values: Sequence[float]) -> Mean | None:
    """Return mean and standard deviation; None without values."""
    if not values:
        return None
    return Mean(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def paired_delta(first: Mapping[Hashable, float], second: Mapping[Hashable, float]) -> Delta | None:
    """Return second minus first over the keys that both have, such as seeds; None if there are none.

    Pairing removes what both owe to the seed, which draws the same order of images for both rows.
    """
    deltas = [second[key] - first[key] for key in first if key in second]
    if not deltas:
        return None
    value = fmean(deltas)
    if len(deltas) == 1:
        return Delta(value, None, None, 1)
    from scipy import stats

    # scipy.stats.ttest_1samp(deltas, 0).confidence_interval(), which warns where all deltas are equal.
    half_width = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(deltas) - 1) * stats.sem(deltas))
    return Delta(value, value - half_width, value + half_width, len(deltas))


def delta_to_baseline(results: RowResults, by_name: Mapping[str, RowResults], metric: str) -> Delta | None:
    """Return the delta of a row to its baseline; None if it has no baseline or there are no pairs."""
    baseline = results.row.baseline
    if baseline is None or baseline not in by_name:
        return None
    return paired_delta(by_name[baseline].values(metric), results.values(metric))


def tabulate(experiment: Experiment, results: list[RowResults], title: str, notes: list[str]) -> TextTable:
    """Return one line per row: mean and deviation, the paper's value in brackets, and deltas to the baseline."""
    has_paper = any(row.paper for row in experiment.rows)
    deltas = [f"delta {metric} (95 % CI)" for metric in experiment.deltas]
    columns = ["", "runs", *experiment.metrics, *deltas, *(["delta, paper"] if has_paper else [])]
    by_name = {r.row.name: r for r in results}
    lines = []
    for r in results:
        values = [_value_cell(r.mean(metric), r.row.paper.get(metric)) for metric in experiment.metrics]
        cells = [delta_cell(delta_to_baseline(r, by_name, metric)) for metric in experiment.deltas]
        paper = [_paper_delta_cell(experiment, r.row, experiment.deltas[0])] if has_paper else []
        lines.append([r.row.name, _runs_cell(r), *values, *cells, *paper])
    failed = [f"{r.row.name}, {_key_text(key)}: {error}" for r in results for key, error in r.failures.items()]
    return TextTable(title, columns, lines, [*notes, *failed])


def delta_cell(delta: Delta | None) -> str:
    """Return a delta and its interval as text; empty for None."""
    if delta is None:
        return ""
    return f"{delta.value:+.1f}" + ("" if delta.low is None else f" [{delta.low:+.1f}, {delta.high:+.1f}]")


def mean_cell(mean: Mean | None, digits: int = 1, factor: float = 1.0) -> str:
    """Return mean and standard deviation, multiplied by ``factor``, as text; a dash for None."""
    if mean is None:
        return "-"
    text = f"{factor * mean.value:.{digits}f}"
    return text if mean.deviation is None else f"{text} ± {factor * mean.deviation:.{digits}f}"


def _value_cell(mean: Mean | None, paper: float | None) -> str:
    text = mean_cell(mean)
    return text if paper is None else f"{text} ({paper:.1f})"


def _runs_cell(results: RowResults) -> str:
    count = str(len(results.metrics))
    return f"{count}, {len(results.failures)} failed" if results.failures else count


def _paper_delta_cell(experiment: Experiment, row: AblationRow, metric: str) -> str:
    if row.baseline is None or metric not in row.paper:
        return ""
    baseline = experiment.row(row.baseline).paper.get(metric)
    return "" if baseline is None else f"{row.paper[metric] - baseline:+.1f}"


def _key_text(key: Key) -> str:
    return " seed ".join(map(str, key)) if isinstance(key, tuple) else str(key)
