"""Sizes, EXIF orientation and damage of image files, read in threads without decoding the pixels."""

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

from libradet.data.tiff import decode_segments, describe_too_large, has_all_segments, is_windowed, tiff_size
from libradet.utils.progress import progress_bar

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".dib", ".webp", ".avif", ".jp2", ".tif", ".tiff"}
    | {".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"}
)
"""Suffixes of the files that count as images when a folder is listed: those of PIL_FORMATS."""

PIL_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF", "TGA")
"""Formats that Pillow may open. Some others are programs (PostScript), or depend on what else is installed."""

PROGRESS_MIN_IMAGES = 100
"""Number of images from which on decoding shows a progress bar."""

MISSING = "is missing"

_EXIF_ORIENTATION = 0x0112
_HEADERS_PER_JOB = 100


class ImageHeader(NamedTuple):
    """Size in pixels as stored, EXIF orientation 1-8, and the problem with the file, if any."""

    width: int = 0
    height: int = 0
    orientation: int = 1
    problem: str | None = None

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height after EXIF rotation."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(path: Path | str, decode: bool = False) -> ImageHeader:
    """Read size and orientation of an image; decode it only if it may be truncated or ``decode`` is set."""
    try:
        if os.path.getsize(path) == 0:
            return ImageHeader(problem="is empty (0 bytes)")
        with Image.open(path, formats=PIL_FORMATS) as image:
            header = ImageHeader(image.width, image.height, exif_orientation(image))
            if decode or not has_valid_trailer(path, image.format):
                decode_segments(Path(path)) if is_windowed(Path(path)) else image.load()
        return header
    except Image.DecompressionBombError:
        return _header_of_windowed(Path(path), decode)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return ImageHeader(problem=MISSING)
    except Exception as error:  # decoders raise almost any exception on damaged input
        return ImageHeader(problem=describe_decode_error(error, path))


def _header_of_windowed(path: Path, decode: bool) -> ImageHeader:
    """Return the header of a file that is too large to be decoded whole, but may be read by window."""
    size = tiff_size(path)
    if size is None:
        return ImageHeader(problem=describe_too_large(path))
    try:
        if decode or not has_all_segments(path):
            decode_segments(path)
    except Exception as error:  # decoders raise almost any exception on damaged input
        return ImageHeader(problem=describe_decode_error(error, path))
    return ImageHeader(*size)


def read_headers(paths: Sequence[Path | str], decode: bool = False) -> list[ImageHeader]:
    """Read the headers of many files, in order, with a progress bar on a terminal if they are decoded."""
    show_progress = decode and len(paths) >= PROGRESS_MIN_IMAGES and sys.stderr.isatty()
    num_threads = min(16, 4 * (os.cpu_count() or 1))
    with progress_bar(show_progress, transient=True) as bar, ThreadPoolExecutor(num_threads) as pool:
        # Reading a header is faster than handing it to a thread, so each job reads many.
        chunk = 1 if decode else _HEADERS_PER_JOB
        chunks = pool.map(
            lambda start: [read_header(path, decode) for path in paths[start : start + chunk]],
            range(0, len(paths), chunk),
        )
        return [header for part in bar.track(chunks, total=len(paths), description="decoding") for header in part]


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1-8. Call it before the pixels are loaded."""
    if image.format == "TIFF":  # PIL rotates these itself
        return 1
    # PIL would decode a whole PNG to search for EXIF data behind the pixels.
    if image.format == "PNG" and "exif" not in image.info and "Raw profile type exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged EXIF blocks are common, and image viewers ignore them
        return 1
    return value if value in range(1, 9) else 1


def has_valid_trailer(path: Path | str, image_format: str | None) -> bool:
    """Return whether the file ends as its format requires; False is only a hint, as cameras append data."""
    if image_format == "TIFF":
        return has_all_segments(Path(path))
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(12)
        file.seek(max(0, size - 64))
        tail = file.read()
    if image_format in ("JPEG", "MPO"):
        return tail.rstrip(b"\0").endswith(b"\xff\xd9")
    if image_format == "PNG":
        return b"IEND" in tail
    if image_format == "WEBP":
        return int.from_bytes(head[4:8], "little") + 8 <= size
    return False


def describe_decode_error(error: Exception, path: Path | str) -> str:
    """Describe why an image cannot be decoded, as the end of a sentence that begins with "the image"."""
    if isinstance(error, UnidentifiedImageError):
        return "is not in a supported image format"
    if isinstance(error, Image.DecompressionBombError):
        return describe_too_large(Path(path))
    return f"cannot be decoded ({str(error) or type(error).__name__})"


def apply_exif_to_points(
    points: Float[ndarray, "N 2"], width: int, height: int, orientation: int
) -> Float[ndarray, "N 2"]:
    """Map points (x, y) of a stored image of ``width`` x ``height`` pixels to the upright image."""
    x, y = points[:, 0], points[:, 1]
    mirrored, flipped = width - x, height - y
    transformed = {2: (mirrored, y), 3: (mirrored, flipped), 4: (x, flipped)}
    transformed |= {5: (y, x), 6: (flipped, x), 7: (flipped, mirrored), 8: (y, mirrored)}
    return np.stack(transformed.get(orientation, (x, y)), 1)
