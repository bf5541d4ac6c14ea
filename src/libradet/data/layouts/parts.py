"""A split on its way into another layout, and its boxes in numbers as short as they can be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

from libradet.data.records import Dataset


@dataclass(frozen=True, eq=False)
class Part:
    """One split to be written.

    Attributes:
        split: its name in the new layout.
        names: of the images, below the folder that holds them.
        categories: other fields of each class's record, in the order of the labels.
        rest: what else the file held, such as ``info`` and ``licenses``.
    """

    split: str
    dataset: Dataset
    names: list[str]
    categories: list[dict[str, Any]]
    rest: dict[str, Any]


def merged_classes(parts: Sequence[Part]) -> list[str]:
    """Class names of all splits, those of the first one first."""
    return list(dict.fromkeys(name for part in parts for name in part.dataset.class_names))


def shortest(
    values: Float64[ndarray, "N 4"],
    read: Callable[[Float64[ndarray, "N 4"]], Float64[ndarray, "N 4"]],
    boxes: Float32[ndarray, "N 4"],
) -> Float64[ndarray, "N 4"]:
    """Values with as few decimals as still are read as the same boxes, to the bit; all of them where it takes more.

    Args:
        read: corners that a reader makes of such values.
    """
    result, todo = values.copy(), np.ones(len(values), bool)
    for digits in range(16):
        rounded = values.round(digits)
        fit = todo & (read(rounded).astype(np.float32) == boxes).all(1)
        result[fit] = rounded[fit]
        todo &= ~fit
        if not todo.any():
            break
    return result


def text(value: float) -> str:
    """A number without exponent and trailing zeros: ``48``, ``0.5``."""
    return np.format_float_positional(value, trim="-")
