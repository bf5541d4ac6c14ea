"""Interface of dataset writers, and numbers written with as few decimals as possible."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray

from libradet.data.formats.filenames import UniqueNames
from libradet.data.records import Dataset


@dataclass(frozen=True, eq=False)
class SplitToWrite:
    """One split to be written.

    Attributes:
        split: its name in the new dataset.
        dataset: images and ground truth.
        names: of the image files, below the folder that contains them.
        categories: other fields of each class's record, in the order of the labels.
        extra: other top-level fields of the original file, such as ``info`` and ``licenses``.
    """

    split: str
    dataset: Dataset
    names: list[str]
    categories: list[dict[str, Any]]
    extra: dict[str, Any]


class Writer(NamedTuple):
    """A dataset format that can be written.

    Attributes:
        image_folder: where its images are, below the dataset's folder; may contain ``{split}``.
        unique_part: the part of an image's name that must be unique.
        name_images: names of a split's images (split, dataset, image folders, names chosen so far).
        write: writes the annotations (folder, splits, polygons in place of boxes: YOLO).
    """

    image_folder: str
    unique_part: Callable[[str], str]
    name_images: Callable[[str, Dataset, Sequence[Path], UniqueNames], list[str]]
    write: Callable[[Path, Sequence[SplitToWrite], bool], None]


def merged_classes(splits: Sequence[SplitToWrite]) -> list[str]:
    """Return the class names of all splits, those of the first one first."""
    return list(dict.fromkeys(name for split in splits for name in split.dataset.class_names))


def shortest_decimals(
    values: Float64[ndarray, "N 4"],
    read: Callable[[Float64[ndarray, "N 4"]], Float64[ndarray, "N 4"]],
    boxes: Float32[ndarray, "N 4"],
) -> Float64[ndarray, "N 4"]:
    """Round values to the fewest decimals that are read as the same boxes, bit for bit; unrounded where none are.

    Args:
        values: to be written.
        read: corners that a reader computes from such values.
        boxes: the corners to be read.
    """
    result, open_rows = values.copy(), np.ones(len(values), bool)
    for digits in range(16):
        rounded = values.round(digits)
        exact = open_rows & (read(rounded).astype(np.float32) == boxes).all(1)
        result[exact] = rounded[exact]
        open_rows &= ~exact
        if not open_rows.any():
            break
    return result


def format_number(value: float) -> str:
    """Return a number without exponent and trailing zeros: ``48``, ``0.5``."""
    return np.format_float_positional(value, trim="-")
