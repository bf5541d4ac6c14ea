"""TIFF files whose windows can be read without decoding the rest, through tifffile (extra ``large_images``)."""

from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TIFF_SUFFIXES = frozenset({".tif", ".tiff"})

MAX_SEGMENT_BYTES = 32 * 2**20
"""Largest decoded segment: of a file with larger ones, a window costs about as much memory as the whole image."""

_MINISBLACK, _RGB, _YCBCR = 1, 2, 6
_JPEG = 7
_ORIENTATION = 274


def has_tifffile() -> bool:
    """Return whether tifffile is installed."""
    return find_spec("tifffile") is not None


def open_tiff(path: Path) -> Any:
    """Return a ``tifffile.TiffFile``."""
    return import_module("tifffile").TiffFile(path)


def is_windowed(path: Path) -> bool:
    """Return whether windows of a file can be read: those of TIFF files with tifffile, if

    - they are upright gray (8 or 16 bits) or RGB images (8 bits) without transparency, pixels interleaved;
    - they are uncompressed, or in tiles or strips of a compression that tifffile can decode.
    """
    if path.suffix.lower() not in TIFF_SUFFIXES or not has_tifffile():
        return False
    try:
        status = path.stat()
        return _is_windowed(path, status.st_mtime_ns, status.st_size)
    except OSError:
        return False


def tiff_size(path: Path) -> tuple[int, int] | None:
    """Return width and height of a file whose windows can be read, None for other files."""
    if not is_windowed(path):
        return None
    with open_tiff(path) as file:
        page = file.pages.first
        return page.imagewidth, page.imagelength


@lru_cache(maxsize=4096)
def _is_windowed(path: Path, modified: int, size: int) -> bool:
    try:
        with open_tiff(path) as file:
            page = file.pages.first
            return _has_plain_pixels(page) and (page.is_memmappable or _can_decode(file, page))
    except Exception:  # damaged: Pillow describes why
        return False


def _has_plain_pixels(page: Any) -> bool:
    """Return whether pixels are upright gray or RGB values in the order of the image."""
    orientation = page.tags.get(_ORIENTATION)
    if page.extrasamples or page.imagedepth != 1 or (orientation is not None and orientation.value != 1):
        return False
    if page.samplesperpixel == 1:
        return page.photometric == _MINISBLACK and page.dtype in ("uint8", "uint16")
    is_rgb = page.photometric == _RGB or (page.photometric == _YCBCR and page.compression == _JPEG)
    return page.samplesperpixel == 3 and page.planarconfig == 1 and is_rgb and page.dtype == "uint8"


def _can_decode(file: Any, page: Any) -> bool:
    rows, columns, samples = (*page.chunks, 1)[:3]
    if rows * columns * samples * page.dtype.itemsize > MAX_SEGMENT_BYTES:
        return False
    stored = next((i for i, count in enumerate(page.databytecounts) if count), None)
    if stored is None:
        return True
    file.filehandle.seek(page.dataoffsets[stored])
    page.decode(file.filehandle.read(page.databytecounts[stored]), stored, jpegtables=page.jpegtables)
    return True
