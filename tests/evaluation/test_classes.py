"""Matching of class names between detector and dataset."""

import pytest

from libradet.errors import UserError
from libradet.evaluation.classes import match_classes


def test_equal_classes_have_no_notes():
    assert match_classes(["a", "b"], ["a", "b"]) == ([0, 1], [])


def test_order_does_not_matter():
    labels, notes = match_classes(["cat", "dog", "bird"], ["bird", "cat", "dog"])
    assert labels == [1, 2, 0]
    assert notes == ["Classes are matched by name: 3 in common."]


def test_case_and_separators_are_ignored():
    labels, _ = match_classes(["Traffic_Light", "pin-hole"], ["pin hole ", "traffic light"])
    assert labels == [1, 0]


def test_notes_name_classes_of_one_side():
    labels, notes = match_classes(["cat", "dog", "horse"], ["cat", "cow", "dog"])
    assert labels == [0, 2, -1]
    assert len(notes) == 3
    assert "2 in common" in notes[0]
    assert "cow" in notes[1]
    assert "horse" in notes[2]
    assert match_classes(["cat", "dog"], ["cat"])[1] == [
        "Classes are matched by name: 1 in common.",
        "The dataset does not have dog: such detections are ignored.",
    ]


def test_default_names_are_matched_by_order():
    labels, notes = match_classes(["class_0", "class_1"], ["cat", "dog"])
    assert labels == [0, 1]
    assert "by order" in notes[0]


@pytest.mark.parametrize("detector", [["horse"], ["class_0"], [f"c{i}" for i in range(9)], []])
def test_no_common_class_is_an_error(detector):
    with pytest.raises(UserError, match=r"no class in common.*cat, dog") as error:
        match_classes(detector, ["cat", "dog"])
    assert (detector[0] if detector else "nothing") in str(error.value)
    assert len(detector) < 6 or "and 4 more" in str(error.value)
