"""Bit depth of gray images in 16-bit files: cameras of 10, 12 and 14 bits use only the lower values."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from libradet.data.image_headers import PIL_FORMATS
from libradet.utils.spacing import evenly_spaced
from libradet.utils.text import counted

DEFAULT_BIT_DEPTH = 16
MAX_CHECKED_IMAGES = 32
SUFFIXES_OF_16_BITS = frozenset({".png", ".tif", ".tiff", ".pgm", ".jp2"})

UNUSED_BITS = 2
"""Number of upper bits that no image uses from which on images count as too dark: at most a quarter of the range."""


def describe_bit_depth(paths: Sequence[Path], bit_depth: int = DEFAULT_BIT_DEPTH) -> str:
    """Return what is wrong with ``bit_depth`` for the 16-bit files among ``paths``; empty if nothing is.

    At most MAX_CHECKED_IMAGES of them, evenly spaced, are decoded. Files that cannot be read are not reported here.
    """
    candidates = [path for path in paths if path.suffix.lower() in SUFFIXES_OF_16_BITS]
    rows = evenly_spaced(len(candidates), MAX_CHECKED_IMAGES)
    maxima = [value for row in rows if (value := _max_of_16_bits(candidates[row])) is not None]
    largest = max(maxima, default=0)
    if largest == 0:
        return ""
    used = max(8, largest.bit_length())
    subject = (
        f"16-bit images have values up to {largest} ({used} bits; "
        f"{counted(len(maxima), 'file was checked', 'files were checked')})"
    )
    if largest >= 2**bit_depth:
        return f"{subject}: they are cut off at {2**bit_depth - 1}; set detector.image.bit_depth to {used}"
    if used <= bit_depth - UNUSED_BITS:
        return (
            f"{subject}: they are nearly black when {2**bit_depth - 1} is white; train with "
            f"--detector.image.bit_depth {used}"
        )
    return ""


def _max_of_16_bits(path: Path) -> int | None:
    """Return the largest value of a file of 16-bit integers, and None for others."""
    try:
        with Image.open(path, formats=PIL_FORMATS) as image:
            return int(np.asarray(image).max(initial=0)) if image.mode.startswith("I") else None
    except Exception:  # decoders raise almost any exception on damaged input, which is reported elsewhere
        return None
