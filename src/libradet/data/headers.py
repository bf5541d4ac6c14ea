"""Image files without their pixels: sizes and what is wrong with them, read cheaply and in threads."""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image, UnidentifiedImageError

from libradet.utils.progress import progress_bar

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jfif"})
"""Names that end like this are taken for images when a folder is listed."""

FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF", "TGA")
"""What Pillow may take a file for. Some others are programs (PostScript), or are read by whatever is installed."""

SHOWN_FROM = 100
"""Images from which on it is worth a bar to decode them all."""

_ORIENTATION = 0x0112


class Header(NamedTuple):
    """Size in pixels as stored, EXIF orientation 1-8, and what is wrong with the file, if anything."""

    width: int = 0
    height: int = 0
    orientation: int = 1
    problem: str | None = None

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height as a viewer shows the image."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(path: Path | str, decode: bool = False) -> Header:
    """Size and orientation of an image, without decoding it unless its end looks cut off or ``decode`` is set."""
    try:
        if os.path.getsize(path) == 0:
            return Header(problem="is empty (0 bytes)")
        with Image.open(path, formats=FORMATS) as image:
            header = Header(image.width, image.height, orientation(image))
            if decode or not _ends_well(path, image.format):
                image.load()
        return header
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return Header(problem="is missing")
    except Exception as error:  # decoders raise nearly anything on damaged input
        return Header(problem=explain(error))


def read_headers(paths: Sequence[Path | str], decode: bool = False) -> list[Header]:
    """Headers of many files, in order; decoding them takes time, which a bar shows on a terminal."""
    shown = decode and len(paths) >= SHOWN_FROM and sys.stderr.isatty()
    with progress_bar(shown, transient=True) as bar, ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        # A thread is handed many headers at once, each of which takes it less time than to be handed one.
        chunk = 1 if decode else 100
        parts = pool.map(
            lambda start: [read_header(path, decode) for path in paths[start : start + chunk]],
            range(0, len(paths), chunk),
        )
        return [header for part in bar.track(parts, total=len(paths), description="decoding") for header in part]


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1-8; has to be asked for before the pixels are loaded."""
    if image.format == "TIFF":  # PIL turns these by itself
        return 1
    # A PNG without early EXIF would be decoded as a whole just to look for a late one.
    if image.format == "PNG" and "exif" not in image.info and "Raw profile type exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF blocks are common, and viewers ignore them
        return 1
    return value if value in range(1, 9) else 1


def _ends_well(path: Path | str, kind: str | None) -> bool:
    """Whether the file ends as its format demands; a False is a suspicion only (cameras append data)."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(12)
        file.seek(max(0, size - 64))
        tail = file.read()
    if kind in ("JPEG", "MPO"):
        return tail.rstrip(b"\0").endswith(b"\xff\xd9")
    if kind == "PNG":
        return b"IEND" in tail
    if kind == "WEBP":
        return int.from_bytes(head[4:8], "little") + 8 <= size
    return False


def explain(error: Exception) -> str:
    """What is wrong with an image that raised ``error``, to go on "the image ..."."""
    if isinstance(error, UnidentifiedImageError):
        return "is not in an image format that can be read"
    if isinstance(error, Image.DecompressionBombError):
        return "is too large to be decoded safely: cut it into tiles"
    return f"cannot be decoded ({str(error) or type(error).__name__})"


def turn(points: Float[ndarray, "N 2"], width: int, height: int, orientation: int) -> Float[ndarray, "N 2"]:
    """Points x, y of a stored image, of ``width`` x ``height`` pixels, where they are once it is upright."""
    x, y = points[:, 0], points[:, 1]
    mirrored, flipped = width - x, height - y
    places = {2: (mirrored, y), 3: (mirrored, flipped), 4: (x, flipped)}
    places |= {5: (y, x), 6: (flipped, x), 7: (flipped, mirrored), 8: (y, mirrored)}
    return np.stack(places.get(orientation, (x, y)), 1)
