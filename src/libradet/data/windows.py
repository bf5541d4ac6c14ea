"""Images that are read by window: TIFF files through tifffile (extra ``large_images``), others decoded once."""

from collections import OrderedDict
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from libradet.data.bit_depth import DEFAULT_BIT_DEPTH
from libradet.data.image_io import pil_to_tensor, read_image
from libradet.data.tiff import decode_segment, is_windowed, open_tiff
from libradet.errors import UserError
from libradet.geometry.tiles import Window

STRIP_CACHE_BYTES, TILE_CACHE_BYTES = 64 * 2**20, 16 * 2**20
"""Decoded segments of a compressed TIFF that are kept, since adjacent windows share some: all strips, and few tiles."""

UNCOMPRESSED = 1
"""Value of the tag "Compression"."""


@runtime_checkable
class WindowReader(Protocol):
    """An open image whose windows can be read; a context manager that closes it.

    Attributes:
        height, width: in pixels.
        is_decoded: whether the whole image is in memory.
    """

    height: int
    width: int
    is_decoded: bool

    def read(self, window: Window) -> UInt8[Tensor, "3 h w"]:
        """Return the pixels of a window, RGB 0-255."""
        ...

    def __enter__(self) -> "WindowReader": ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class DecodedImage:
    """An image in memory, as a :class:`WindowReader`."""

    is_decoded = True

    def __init__(self, pixels: UInt8[Tensor, "3 H W"]) -> None:
        self.pixels = pixels
        self.height, self.width = pixels.shape[1:]

    def read(self, window: Window) -> UInt8[Tensor, "3 h w"]:
        """Return the pixels of a window, RGB 0-255."""
        # A copy, since a view would keep the whole image in memory.
        return self.pixels[:, *window.slices].clone()

    def __enter__(self) -> "DecodedImage":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.pixels = torch.empty(3, 0, 0, dtype=torch.uint8)


class TiffWindows:
    """The first page of a TIFF file, of which the segments (tiles or strips) are read that a window overlaps.

    Of uncompressed contiguous pages, only the bytes of the window are read: pages of a mapped file would count as
    memory of the process. Pixels are those that Pillow decodes.

    Args:
        path: a file for which :func:`libradet.data.tiff.is_windowed` is true.
        bit_depth: of the values in 16-bit files.
    """

    is_decoded = False

    def __init__(self, path: Path, bit_depth: int = DEFAULT_BIT_DEPTH) -> None:
        self.path, self.bit_depth = path, bit_depth
        self._file = open_tiff(path)
        self._page: Any = self._file.pages.first
        self.height, self.width = self._page.imagelength, self._page.imagewidth
        self._contiguous = FileIO(path) if self._page.is_memmappable else None
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._cache_bytes = _cache_bytes(self._page)

    def read(self, window: Window) -> UInt8[Tensor, "3 h w"]:
        """Return the pixels of a window, RGB 0-255.

        Raises:
            UserError: the file is damaged.
        """
        try:
            values = self._read_segments(window) if self._contiguous is None else self._read_rows(window)
        except Exception as error:  # decoders raise almost any exception on damaged input
            raise UserError(f"{self.path}: the image cannot be decoded ({error or type(error).__name__}).") from None
        return self._to_rgb(values)

    def __enter__(self) -> "TiffWindows":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._contiguous is not None:
            self._contiguous.close()
        self._file.close()

    def _read_rows(self, window: Window) -> Shaped[ndarray, "h w *S"]:
        assert self._contiguous is not None
        page, (start, *_) = self._page, self._page.dataoffsets
        dtype = np.dtype(page.dtype).newbyteorder(self._file.byteorder)
        values = np.empty((window.height, window.width, page.samplesperpixel), dtype)
        pixel_bytes = dtype.itemsize * page.samplesperpixel
        for number, row in enumerate(values, start=window.top):
            self._contiguous.seek(start + (number * self.width + window.left) * pixel_bytes)
            if self._contiguous.readinto(memoryview(row.view(np.uint8))) != row.nbytes:
                raise ValueError("the file is truncated")
        return values if page.samplesperpixel > 1 else values[..., 0]

    def _read_segments(self, window: Window) -> Shaped[ndarray, "h w *S"]:
        page = self._page
        rows, columns = page.chunks[0], page.chunks[1]
        across = -(-self.width // columns)
        values = np.zeros((window.height, window.width, page.samplesperpixel), page.dtype)
        for row in range(window.top // rows, -(-(window.top + window.height) // rows)):
            for column in range(window.left // columns, -(-(window.left + window.width) // columns)):
                segment = self._segment(row * across + column)
                if segment is not None:  # a segment that is not stored is black
                    _copy_overlap(segment, (row * rows, column * columns), values, window)
        return values if page.samplesperpixel > 1 else values[..., 0]

    def _segment(self, index: int) -> Shaped[ndarray, "h w S"] | None:
        """Return a decoded segment, or None if the file does not store it."""
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        decoded = decode_segment(self._file, index)
        segment = None if decoded is None else decoded[0]
        self._cache[index] = segment
        size = 0 if segment is None else segment.nbytes
        while len(self._cache) > max(1, self._cache_bytes // max(size, 1)):
            self._cache.popitem(last=False)
        return segment

    def _to_rgb(self, values: Shaped[ndarray, "h w *S"]) -> UInt8[Tensor, "3 h w"]:
        if values.dtype == np.uint8 and values.ndim == 3:
            return torch.from_numpy(values).permute(2, 0, 1)
        from PIL import Image

        return pil_to_tensor(Image.fromarray(values), bit_depth=self.bit_depth)


def open_windows(
    path: Path,
    apply_exif: bool = True,
    expected_size: tuple[int, int] | None = None,
    bit_depth: int = DEFAULT_BIT_DEPTH,
) -> WindowReader:
    """Open an image to read windows of it; other files than TIFF with windows are decoded whole.

    Args:
        path, apply_exif, bit_depth: see :func:`libradet.data.image_io.read_image`.
        expected_size: height and width that the image had when its boxes were validated.

    Raises:
        UserError: the file is missing, cannot be decoded, or does not have the expected size.
    """
    if not is_windowed(path):
        return DecodedImage(read_image(path, apply_exif, None, expected_size, bit_depth))
    image = TiffWindows(path, bit_depth)
    if expected_size is not None and (image.height, image.width) != expected_size:
        with image:
            raise UserError(
                f"{path}: the image was replaced: it is {image.width}x{image.height} and was "
                f"{expected_size[1]}x{expected_size[0]} when its boxes were validated. Restore the original file, or "
                "start a new run."
            )
    return image


def reduced_image(image: WindowReader, max_side: int) -> tuple[UInt8[Tensor, "3 h w"], int]:
    """Return every k-th pixel of an image and k, the smallest for which no side exceeds ``max_side``.

    The image is read in strips, so that it never is in memory as a whole.
    """
    step = max(1, -(-max(image.height, image.width) // max_side))
    strips = []
    height = max(1, 512 // step) * step
    for top in range(0, image.height, height):
        strip = image.read(Window(top, 0, min(height, image.height - top), image.width))
        strips.append(strip[:, ::step, ::step].clone())
    return torch.cat(strips, 1), step


def _cache_bytes(page: Any) -> int:
    """Return how many bytes of decoded segments are kept: none where decoding is copying."""
    if page.compression == UNCOMPRESSED:
        return 0
    return STRIP_CACHE_BYTES if page.chunks[1] >= page.imagewidth else TILE_CACHE_BYTES


def _copy_overlap(
    segment: Shaped[ndarray, "a b S"], origin: tuple[int, int], values: Shaped[ndarray, "h w S"], window: Window
) -> None:
    """Copy the part of a segment, whose first pixel is ``origin``, that lies in a window."""
    source, target = [], []
    for start, length, first, end in zip(origin, segment.shape, (window.top, window.left), values.shape, strict=False):
        low, high = max(start, first), min(start + length, first + end)
        source.append(slice(low - start, max(high, low) - start))
        target.append(slice(low - first, max(high, low) - first))
    values[tuple(target)] = segment[tuple(source)]
