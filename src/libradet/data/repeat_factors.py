"""Repeat-factor sampling: images with rare classes occur several times in an epoch (Gupta et al., LVIS, CVPR 2019)."""

from math import ceil

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from libradet.data.records import Dataset


def count_objects(dataset: Dataset) -> list[int]:
    """Return the number of objects of each class; crowd regions do not count."""
    counts = np.zeros(len(dataset.class_names), np.int64)
    for image in dataset.images:
        counts += np.bincount(image.labels[~image.crowd], minlength=len(counts))
    return counts.tolist()


def class_image_fractions(dataset: Dataset) -> Float64[ndarray, " C"]:
    """Return the fraction of images that contain each class; crowd regions do not count."""
    counts = np.zeros(len(dataset.class_names))
    for image in dataset.images:
        counts[np.unique(image.labels[~image.crowd])] += 1
    return counts / max(len(dataset.images), 1)


def repeat_factors(dataset: Dataset, threshold: float) -> Float64[ndarray, " N"]:
    """Return how often each image occurs in an epoch, on average (LVIS, appendix B.2).

    A class c in a fraction f(c) of the images has r(c) = max(1, sqrt(``threshold`` / f(c))). The factor of an image is
    the largest of its classes; 1 without an object.

    Args:
        threshold: classes in a smaller fraction of the images are repeated; 0 repeats none.
    """
    fractions = class_image_fractions(dataset)
    # Classes without an image repeat none: any fraction serves.
    factor_of_class = np.maximum(1.0, np.sqrt(threshold / np.where(fractions > 0, fractions, 1.0)))
    factors = np.ones(len(dataset.images))
    for row, image in enumerate(dataset.images):
        labels = image.labels[~image.crowd]
        if len(labels):
            factors[row] = factor_of_class[labels].max()
    return factors


def describe_repeats(dataset: Dataset, threshold: float) -> str:
    """Return a few words on the repeated images of an epoch, and the fraction of the rarest class if there are none."""
    factors = repeat_factors(dataset, threshold)
    repeated = num_repeated(factors) - len(factors)
    if repeated:
        return f"repeat factors below {threshold:g}: {len(factors)} images become {len(factors) + repeated} per epoch"
    fractions = class_image_fractions(dataset)
    rarest = min(fractions[fractions > 0], default=1.0)
    return f"repeat factors below {threshold:g} repeat no image, as the rarest class is in {rarest:.3g} of them"


def draw_repeats(factors: Float64[ndarray, " N"], rng: np.random.Generator) -> Int64[ndarray, " N"]:
    """Return how often each image occurs in one epoch: its factor rounded down or up, on average the factor.

    Systematic sampling: all epochs are equally long, and no image is left out, as factors are at least 1. They are
    scaled to an integral sum.
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
