"""IoU-balanced sampling with Python sets, image by image, as in common detection toolboxes."""

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray


def sample_by_sets(
    negatives: Bool[ndarray, " N"],
    iou: Float[ndarray, " N"],
    count: int,
    num_bins: int,
    max_iou: float,
    rng: np.random.Generator,
) -> Int[ndarray, " S"]:
    """Sample ``count`` negatives, equally many from each IoU bin below ``max_iou``; fill short bins at random."""
    candidates = set(np.flatnonzero(negatives))
    if len(candidates) <= count:
        return np.array(list(candidates), dtype=np.int64)
    chosen: set[int] = set()
    for k in range(num_bins):
        low, high = k * max_iou / num_bins, (k + 1) * max_iou / num_bins
        in_bin = candidates & set(np.flatnonzero((iou >= low) & (iou < high)))
        chosen |= _choose(in_bin, count // num_bins, rng)
    chosen |= _choose(candidates - chosen, count - len(chosen), rng)
    return np.array(list(chosen), dtype=np.int64)


def _choose(members: set[int], count: int, rng: np.random.Generator) -> set[int]:
    if len(members) <= count:
        return members
    return set(rng.choice(np.array(list(members)), count, replace=False))
