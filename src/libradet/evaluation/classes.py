"""Which of a dataset's classes are which of a detector's."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from libradet.errors import UserError


class ClassMatch(NamedTuple):
    """The dataset's label for each label of the detector (-1: unknown there), and sentences about it for people."""

    labels: list[int]
    notes: list[str]


def match_classes(detector: Sequence[str], dataset: Sequence[str]) -> ClassMatch:
    """Match classes by name; capitals, spaces, ``_`` and ``-`` do not matter.

    Where neither side's names mean anything to the other, but the detector was never told names
    (``class_0``, ``class_1``, ...) and the numbers of classes agree, classes are matched by position.

    Raises:
        UserError: not one class in common.
    """
    if list(detector) == list(dataset):
        return ClassMatch(list(range(len(dataset))), [])
    rows = {_key(name): row for row, name in reversed(list(enumerate(dataset)))}
    labels = [rows.get(_key(name), -1) for name in detector]
    if max(labels, default=-1) < 0:
        if len(detector) == len(dataset) and all(re.fullmatch(r"class_\d+", name) for name in detector):
            return ClassMatch(
                list(range(len(dataset))), ["The model does not know its classes' names: classes are matched by order."]
            )
        raise UserError(
            f"The model and the dataset have no class in common: the model knows {_some(detector)}; "
            f"the dataset has {_some(dataset)}. Rename the dataset's categories or train on this dataset."
        )
    return ClassMatch(labels, _explain(detector, dataset, labels))


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _explain(detector: Sequence[str], dataset: Sequence[str], labels: list[int]) -> list[str]:
    common = sum(label >= 0 for label in labels)
    notes = []
    if labels != list(range(len(dataset))):
        notes.append(f"Classes are matched by name: {common} in common.")
    if absent := [name for row, name in enumerate(dataset) if row not in labels]:
        notes.append(f"The model does not know {_some(absent)}: nothing of that kind is found, which counts as 0.")
    if surplus := [name for name, label in zip(detector, labels, strict=True) if label < 0]:
        notes.append(f"The dataset does not have {_some(surplus)}: such detections are left out.")
    return notes


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "nothing") + more
