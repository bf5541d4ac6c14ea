"""Confidence intervals of shares over images: percentile bootstrap (Efron and Tibshirani, 1993)."""

from typing import TypedDict

import numpy as np
from jaxtyping import Float, Num
from numpy import ndarray

RESAMPLES = 1000


class Estimate(TypedDict):
    """A value and its 95 % interval; None if there is nothing to measure."""

    value: float | None
    low: float | None
    high: float | None


def estimate(counts: Num[ndarray, " B"], totals: Num[ndarray, " B"], seed: int) -> Estimate:
    """Return sum(counts) / sum(totals) over images, with its interval.

    Images are resampled, not samples: samples of the same image are correlated.
    """
    if not totals.sum():
        return Estimate(value=None, low=None, high=None)
    return _interval(float(counts.sum()) / float(totals.sum()), resample_share(counts, totals, seed))


def estimate_gap(
    first: tuple[Num[ndarray, " B"], Num[ndarray, " B"]],
    second: tuple[Num[ndarray, " B"], Num[ndarray, " B"]],
    seed: int,
) -> Estimate:
    """Return the first share minus the second one, of the same images (a paired bootstrap)."""
    if not (first[1].sum() and second[1].sum()):
        return Estimate(value=None, low=None, high=None)
    value = float(first[0].sum() / first[1].sum() - second[0].sum() / second[1].sum())
    return _interval(value, resample_share(*first, seed) - resample_share(*second, seed))


def resample_share(counts: Num[ndarray, " B"], totals: Num[ndarray, " B"], seed: int) -> Float[ndarray, " R"]:
    """Return the share in ``RESAMPLES`` resamples of the images; NaN where a resample has a total of 0.

    The resamples are those of ``scipy.stats.bootstrap(..., paired=True, method="percentile")`` for a generator of the
    same seed, which refuses a single image and warns about resamples without any sample.
    """
    drawn = np.random.default_rng(seed).integers(0, len(counts), (RESAMPLES, len(counts)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return counts[drawn].sum(1) / totals[drawn].sum(1)


def _interval(value: float, resampled: Float[ndarray, " R"]) -> Estimate:
    resampled = resampled[np.isfinite(resampled)]
    if not len(resampled):
        return Estimate(value=value, low=None, high=None)
    low, high = np.percentile(resampled, [2.5, 97.5]).tolist()
    return Estimate(value=value, low=low, high=high)
