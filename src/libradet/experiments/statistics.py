"""Means over seeds, and differences that are compared pair by pair."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Mean:
    """A mean of ``count`` values and their standard deviation, which one value alone does not have."""

    value: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """A mean difference of ``count`` pairs, and its interval of 95 % (Student's t), which one pair does not have."""

    value: float
    low: float | None
    high: float | None
    count: int

    @property
    def decided(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def mean(values: Sequence[float]) -> Mean | None:
    """None without values."""
    if not values:
        return None
    return Mean(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def difference(first: Mapping[Hashable, float], second: Mapping[Hashable, float]) -> Difference | None:
    """Second minus first over the keys that both have, such as seeds; None if there are none.

    What belongs together is paired: the same seed draws the same order of images for both rows, which takes out what
    both owe to it.
    """
    gains = [second[key] - first[key] for key in first if key in second]
    if not gains:
        return None
    value = fmean(gains)
    if len(gains) == 1:
        return Difference(value, None, None, 1)
    from scipy.stats import t

    half = float(t.ppf((1 + CONFIDENCE) / 2, len(gains) - 1)) * stdev(gains) / sqrt(len(gains))
    return Difference(value, value - half, value + half, len(gains))
