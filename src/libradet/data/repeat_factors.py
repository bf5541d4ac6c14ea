"""Repeat-factor sampling: images with rare classes occur several times in an epoch (Gupta et al., LVIS, CVPR 2019)."""

from math import ceil

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from libradet.data.records import Dataset
from libradet.utils.text import counted


def count_objects(dataset: Dataset) -> list[int]:
    """Return the number of objects of each class; crowd regions do not count."""
    counts = np.zeros(len(dataset.class_names), np.int64)
    for image in dataset.images:
        counts += np.bincount(image.labels[~image.crowd], minlength=len(counts))
    return counts.tolist()


def class_image_fractions(dataset: Dataset, empty_fraction: float = 1.0) -> Float64[ndarray, " C"]:
    """Return the fraction of images that contain each class; crowd regions do not count.

    Args:
        empty_fraction: fraction of the images without objects that count.
    """
    counts = np.zeros(len(dataset.class_names))
    for image in dataset.images:
        counts[np.unique(image.labels[~image.crowd])] += 1
    return counts / max(float(occurrence_fractions(dataset, empty_fraction).sum()), 1.0)


def occurrence_fractions(dataset: Dataset, empty_fraction: float) -> Float64[ndarray, " N"]:
    """Return the fraction of epochs that each image occurs in: 1, or ``empty_fraction`` without an object."""
    return np.where([image.has_objects for image in dataset.images], 1.0, empty_fraction)


def repeat_factors(dataset: Dataset, threshold: float, empty_fraction: float = 1.0) -> Float64[ndarray, " N"]:
    """Return how often each image occurs in an epoch, on average (LVIS, appendix B.2).

    A class c in a fraction f(c) of the images has r(c) = max(1, sqrt(``threshold`` / f(c))). The factor of an image is
    the largest of its classes; ``empty_fraction`` without an object.

    Args:
        threshold: classes in a smaller fraction of the images are repeated; 0 repeats none.
        empty_fraction: fraction of the images without objects that occur in an epoch, other ones in each.
    """
    fractions = class_image_fractions(dataset, empty_fraction)
    # Classes without an image repeat none: any fraction serves.
    factor_of_class = np.maximum(1.0, np.sqrt(threshold / np.where(fractions > 0, fractions, 1.0)))
    factors = occurrence_fractions(dataset, empty_fraction)
    for row, image in enumerate(dataset.images):
        labels = image.labels[~image.crowd]
        if len(labels):
            factors[row] = factor_of_class[labels].max()
    return factors


def describe_repeats(dataset: Dataset, threshold: float, empty_fraction: float = 1.0) -> str:
    """Return a few words on the repeated images of an epoch, and the fraction of the rarest class if there are none."""
    factors = repeat_factors(dataset, threshold, empty_fraction)
    once = num_repeated(occurrence_fractions(dataset, empty_fraction))
    repeated = num_repeated(factors) - once
    if repeated:
        return (
            f"repeat factors below {threshold:g}: {counted(once, 'image becomes', 'images become')} "
            f"{once + repeated} per epoch"
        )
    fractions = class_image_fractions(dataset, empty_fraction)
    rarest = min(fractions[fractions > 0], default=1.0)
    return f"repeat factors below {threshold:g} repeat no image, as the rarest class is in {rarest:.3g} of them"


def draw_repeats(factors: Float64[ndarray, " N"], rng: np.random.Generator) -> Int64[ndarray, " N"]:
    """Return how often each image occurs in one epoch: its factor rounded down or up, on average the factor.

    Systematic sampling: all epochs are equally long, and no image with a factor of at least 1 is left out. Factors are
    scaled to an integral sum, and at least one of them is positive.
    """
    total = num_repeated(factors)
    # Rows in random order: neighbors in the dataset are not rounded together.
    order = rng.permutation(len(factors))
    ends = np.cumsum(factors[order]) * (total / factors.sum())
    ends[-1] = total  # whatever the sums are rounded to
    points = np.ceil(ends - rng.uniform()).astype(np.int64)
    repeats = np.empty(len(factors), np.int64)
    repeats[order] = np.diff(points, prepend=0)
    return repeats


def num_repeated(factors: Float64[ndarray, " N"]) -> int:
    """Return the number of images of an epoch: the sum of the factors, rounded up."""
    return ceil(float(factors.sum()) - 1e-6)
