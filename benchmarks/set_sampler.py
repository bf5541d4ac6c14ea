"""IoU-balanced sampling as detection toolboxes commonly do it: with Python's sets, one image after the other."""

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
    """``count`` negatives, equally many from each IoU bin below ``max_iou``, short bins made up for at random."""
    everything = set(np.flatnonzero(negatives))
    if len(everything) <= count:
        return np.array(list(everything), dtype=np.int64)
    chosen: set[int] = set()
    for k in range(num_bins):
        low, high = k * max_iou / num_bins, (k + 1) * max_iou / num_bins
        inside = everything & set(np.flatnonzero((iou >= low) & (iou < high)))
        chosen |= _some(inside, count // num_bins, rng)
    chosen |= _some(everything - chosen, count - len(chosen), rng)
    return np.array(list(chosen), dtype=np.int64)


def _some(members: set[int], count: int, rng: np.random.Generator) -> set[int]:
    if len(members) <= count:
        return members
    return set(rng.choice(np.array(list(members)), count, replace=False))
