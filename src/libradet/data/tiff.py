"""TIFF files whose windows can be read without decoding the rest, through tifffile (extra ``large_images``)."""

from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TIFF_SUFFIXES = frozenset({".tif", ".tiff"})

MAX_SEGMENT_BYTES = 32 * 2**20
"""Largest decoded segment: of a file with larger ones, a window costs about as much memory as the whole image."""

_INSTALL = "pip install 'libradet[large_images]'"
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


def has_all_segments(path: Path) -> bool:
    """Return whether windows of a file can be read, and the file is as long as its segments require."""
    if not is_windowed(path):
        return False
    with open_tiff(path) as file:
        page, size = file.pages.first, file.filehandle.size
        return all(a + b <= size for a, b in zip(page.dataoffsets, page.databytecounts, strict=True))


def decode_segment(file: Any, index: int) -> Any:
    """Return a decoded segment [1, h, w, S] of a file, None if the file does not store it.

    Raises:
        Exception: almost any if the segment is damaged.
    """
    page, data = file.pages.first, None
    if count := page.databytecounts[index]:
        file.filehandle.seek(page.dataoffsets[index])
        data = file.filehandle.read(count)
        if len(data) != count:
            raise ValueError("the file is truncated")
    return page.decode(data, index, jpegtables=page.jpegtables)[0]


def decode_segments(path: Path) -> None:
    """Decode the segments of a file whose windows can be read, one at a time. Raises any exception if it is damaged."""
    with open_tiff(path) as file:
        page = file.pages.first
        if page.is_memmappable:
            page.asarray(out="memmap")
            return
        for index in range(len(page.dataoffsets)):
            decode_segment(file, index)


def describe_too_large(path: Path) -> str:
    """Return how an image can be read that is too large to be decoded whole, after "the image "."""
    subject = "is too large to be decoded whole"
    if is_windowed(path):
        return f"{subject}: use tiles (--tiles SIZE OVERLAP), which are read by window"
    if path.suffix.lower() not in TIFF_SUFFIXES:
        return f"{subject}: convert it to a TIFF file in tiles and use --tiles, or cut it into several files"
    if not has_tifffile():
        return f"{subject}, and reading it by window needs tifffile: {_INSTALL}"
    try:
        with open_tiff(path) as file:
            _can_decode(file, file.pages.first)
    except Exception as error:  # damaged, or tifffile names the package that it lacks
        if "imagecodecs" in str(error):
            return f"{subject}, and reading it by window needs imagecodecs: {_INSTALL}"
    return f"{subject}: convert it to upright gray or RGB of 8 bits in tiles, whose windows can be read with --tiles"


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
    decode_segment(file, stored)
    return True
