"""Positions of tiles: overlapping windows of one size that cover an image. Does not import torch."""

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple

from libradet.errors import UserError

TilesLike = Annotated[Sequence[int | float], "a size in pixels and an overlap, such as (640, 0.2)"]
"""Side of a tile in pixels of the image, and overlap of adjacent tiles as a fraction of it: (640, 0.2)."""


MIN_AREA_RATIO = 0.1
"""Default share of an object's area from which on it is an object of a tile, as in SAHI and for random crops."""


class Window(NamedTuple):
    """Part of an image, in whole pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


class Tiles(NamedTuple):
    """Size and overlap of tiles.

    Attributes:
        size: side in pixels of the image; a smaller image is one tile of its own size.
        overlap: fraction of the side that adjacent tiles share, 0 <= overlap < 1; rounded down to whole pixels.
    """

    size: int
    overlap: float

    @property
    def stride(self) -> int:
        """Distance in pixels between adjacent tiles."""
        return self.size - int(self.overlap * self.size)


def as_tiles(value: TilesLike) -> Tiles:
    """Return a pair of size and overlap as :class:`Tiles`.

    Raises:
        UserError: not two numbers, a size that is no whole number of pixels, or an overlap outside [0, 1).
    """
    if not isinstance(value, Sequence) or len(value) != 2:
        raise UserError(f"tiles is {value}: it must be a size in pixels and an overlap, such as 640 0.2")
    size, overlap = value
    if not math.isfinite(size) or size < 1 or size != int(size):
        raise UserError(f"tiles has the size {size:g}: it must be a whole number of pixels, at least 1")
    if not 0 <= overlap < 1:
        raise UserError(f"tiles has the overlap {overlap:g}: it must be a fraction of the size, at least 0 and below 1")
    return Tiles(int(size), float(overlap))


def tile_windows(height: int, width: int, tiles: Tiles) -> list[Window]:
    """Return the tiles of an image, row by row.

    Along each side they start at multiples of the stride; the last one is shifted to end at the border, so that all of
    them have the full size where the image is large enough. These are the positions of SAHI (Akyon et al., 2022).
    """
    rows, columns = _starts(height, tiles), _starts(width, tiles)
    size = min(tiles.size, height), min(tiles.size, width)
    return [Window(top, left, *size) for top in rows for left in columns]


def count_tiles(height: int, width: int, tiles: Tiles) -> int:
    """Return the number of tiles of an image."""
    return len(_starts(height, tiles)) * len(_starts(width, tiles))


def _starts(length: int, tiles: Tiles) -> list[int]:
    """Return the first pixel of each tile along a side."""
    last = max(0, length - tiles.size)
    return [*range(0, last, tiles.stride), last]
