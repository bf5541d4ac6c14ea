"""Comparison of a runtime's detections with those of PyTorch."""

from dataclasses import dataclass, field

import numpy as np
from numpy import ndarray
from scipy.optimize import linear_sum_assignment

MAX_PIXELS, MAX_SCORE = 1.0, 0.01
"""Detections of a class are the same if box coordinates and scores differ by no more."""

_UNMATCHED = 1e6


@dataclass
class Comparison:
    """Largest differences of matched detections, and the numbers of those without a counterpart.

    Attributes:
        pixels: of box coordinates, in pixels of the images.
        score: of scores.
        mask: of mask cells.
        detections: number of PyTorch's detections.
        lost: PyTorch's detections that the runtime does not output.
        extra: the runtime's detections that PyTorch does not output.
        time_ratios: processor time of the runtime over that of PyTorch, for each input.
    """

    pixels: float = 0.0
    score: float = 0.0
    mask: float = 0.0
    detections: int = 0
    lost: int = 0
    extra: int = 0
    time_ratios: list[float] = field(default_factory=list)

    def add(self, expected: dict[str, ndarray], actual: dict[str, ndarray]) -> None:
        """Compare the outputs for one batch."""
        for row in range(len(expected["valid"])):
            ours, theirs = _valid_rows(expected, row), _valid_rows(actual, row)
            self.detections += len(ours["scores"])
            self._add_image(ours, theirs)

    def _add_image(self, ours: dict[str, ndarray], theirs: dict[str, ndarray]) -> None:
        pixels = np.abs(ours["boxes"][:, None] - theirs["boxes"]).max(2, initial=0)
        scores = np.abs(ours["scores"][:, None] - theirs["scores"])
        same = (ours["labels"][:, None] == theirs["labels"]) & (pixels <= MAX_PIXELS) & (scores <= MAX_SCORE)
        cost = np.where(same, pixels / MAX_PIXELS + scores / MAX_SCORE, _UNMATCHED)
        left, right = linear_sum_assignment(cost)
        matched = same[left, right]
        left, right = left[matched], right[matched]
        self.lost += len(ours["scores"]) - len(left)
        self.extra += len(theirs["scores"]) - len(right)
        self.pixels = max(self.pixels, float(pixels[left, right].max(initial=0)))
        self.score = max(self.score, float(scores[left, right].max(initial=0)))
        if "masks" in ours:
            masks = np.abs(ours["masks"][left] - theirs["masks"][right])
            self.mask = float(np.maximum(self.mask, masks.max(initial=0)))  # NaN if one of them is


def _valid_rows(outputs: dict[str, ndarray], row: int) -> dict[str, ndarray]:
    valid = outputs["valid"][row].astype(bool)
    return {name: array[row][valid] for name, array in outputs.items() if name != "valid"}
