"""Counts in messages agree with their nouns."""

import numpy as np
import pytest

from libradet.utils.text import counted


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((1, "image"), "1 image"),
        ((0, "image"), "0 images"),
        ((1234, "image"), "1,234 images"),
        ((1, "box has", "boxes have"), "1 box has"),
        ((np.int64(2), "box has", "boxes have"), "2 boxes have"),
    ],
)
def test_numbers_with_their_nouns(arguments, text):
    assert counted(*arguments) == text
