"""How far a share could be off, given how few images it comes from."""

from typing import TypedDict

import numpy as np
from jaxtyping import Float, Num
from numpy import ndarray

RESAMPLES = 1000


class Estimate(TypedDict):
    """A number and where 95 % of resampled sets of images put it; None where there is nothing to measure."""

    value: float | None
    low: float | None
    high: float | None


def estimate(parts: Num[ndarray, " P"], wholes: Num[ndarray, " P"], seed: int) -> Estimate:
    """Σ parts / Σ wholes over images.

    Images, not samples, are drawn anew: what is in one image resembles itself.
    """
    whole = float(wholes.sum())
    if not whole:
        return Estimate(value=None, low=None, high=None)
    return _around(float(parts.sum()) / whole, resampled(parts, wholes, seed))


def estimate_gap(
    first: tuple[Num[ndarray, " P"], Num[ndarray, " P"]],
    second: tuple[Num[ndarray, " P"], Num[ndarray, " P"]],
    seed: int,
) -> Estimate:
    """The first share minus the second one, of the same images."""
    if not (first[1].sum() and second[1].sum()):
        return Estimate(value=None, low=None, high=None)
    value = float(first[0].sum() / first[1].sum() - second[0].sum() / second[1].sum())
    return _around(value, resampled(*first, seed) - resampled(*second, seed))


def resampled(parts: Num[ndarray, " P"], wholes: Num[ndarray, " P"], seed: int) -> Float[ndarray, " R"]:
    """The share in ``RESAMPLES`` sets of as many images, drawn with replacement; NaN where a set has nothing."""
    drawn = np.random.default_rng(seed).integers(0, len(parts), (RESAMPLES, len(parts)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return parts[drawn].sum(1) / wholes[drawn].sum(1)


def _around(value: float, draws: Float[ndarray, " R"]) -> Estimate:
    draws = draws[np.isfinite(draws)]
    low, high = np.percentile(draws, [2.5, 97.5]).tolist() if len(draws) else (None, None)
    return Estimate(value=value, low=low, high=high)
