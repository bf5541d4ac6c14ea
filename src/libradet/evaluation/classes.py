"""Matching of a detector's classes to those of a dataset."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from libradet.errors import UserError
from libradet.utils.text import summarize_list


class ClassMatch(NamedTuple):
    """Result of matching.

    Attributes:
        labels: label in the dataset for each label of the detector; -1 if the dataset does not have the class.
        notes: messages on differences between the classes.
    """

    labels: list[int]
    notes: list[str]


def match_classes(detector: Sequence[str], dataset: Sequence[str]) -> ClassMatch:
    """Match class names, ignoring case, spaces, ``_`` and ``-``.

    If no name matches, the detector has default names (``class_0``, ``class_1``, ...) and the numbers of classes are
    equal, classes are matched by order.

    Raises:
        UserError: no class in common.
    """
    if list(detector) == list(dataset):
        return ClassMatch(list(range(len(dataset))), [])
    rows = {_normalize(name): row for row, name in reversed(list(enumerate(dataset)))}
    labels = [rows.get(_normalize(name), -1) for name in detector]
    if max(labels, default=-1) >= 0:
        return ClassMatch(labels, _notes(detector, dataset, labels))
    if len(detector) == len(dataset) and all(re.fullmatch(r"class_\d+", name) for name in detector):
        return ClassMatch(list(range(len(dataset))), ["The model has no class names: classes are matched by order."])
    raise UserError(
        f"the model and the dataset have no class in common: the model has {_summarize(detector)}; "
        f"the dataset has {_summarize(dataset)}. Rename the dataset's categories, or train on this dataset."
    )


def _normalize(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _notes(detector: Sequence[str], dataset: Sequence[str], labels: list[int]) -> list[str]:
    common = sum(label >= 0 for label in labels)
    notes = []
    if labels != list(range(len(dataset))):
        notes.append(f"Classes are matched by name: {common} in common.")
    if missing := [name for row, name in enumerate(dataset) if row not in labels]:
        notes.append(f"The model does not have {_summarize(missing)}: no detections of these classes, so AP is 0.")
    if extra := [name for name, label in zip(detector, labels, strict=True) if label < 0]:
        notes.append(f"The dataset does not have {_summarize(extra)}: such detections are ignored.")
    return notes


def _summarize(names: Sequence[str]) -> str:
    return summarize_list(names, empty="nothing")
