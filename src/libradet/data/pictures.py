"""Picture files: their headers, read cheaply and in threads, and their pixels, upright and in RGB."""

import math
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from libradet.bars import progress_bar
from libradet.errors import UserError

try:  # torchvision means to drop it: PIL gives the same pixels then, in a third more time
    from torchvision.io import ImageReadMode, decode_jpeg
except ImportError:
    decode_jpeg = None

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jfif"})
"""Names that end like this are taken for pictures when a folder is listed."""

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

SPARE = 1.5
"""How many times as large as needed a JPEG has to be when it is decoded at reduced size. The mean difference
from a full decoding is then below two of 255 levels, about that between bilinear and bicubic resizing."""

SHOWN_FROM = 100
"""Pictures from which on it is worth a bar to decode them all."""


class Header(NamedTuple):
    """Size in pixels as stored, EXIF orientation 1–8, and what is wrong with the file, if anything."""

    width: int = 0
    height: int = 0
    orientation: int = 1
    problem: str | None = None

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height as a viewer shows the picture."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(path: Path | str, decode: bool = False) -> Header:
    """Size and orientation of a picture, without decoding it unless its end looks cut off or ``decode`` is set."""
    try:
        if os.path.getsize(path) == 0:
            return Header(problem="is empty (0 bytes)")
        with Image.open(path) as image:
            header = Header(image.width, image.height, orientation(image))
            if decode or not _ends_well(path, image.format):
                image.load()
        return header
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return Header(problem="is missing")
    except Exception as error:  # decoders raise nearly anything on damaged input
        return Header(problem=_explain(error))


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
    """EXIF orientation, 1–8; has to be asked for before the pixels are loaded."""
    if image.format == "TIFF":  # PIL turns these by itself
        return 1
    # A PNG without early EXIF would be decoded as a whole just to look for a late one.
    if image.format == "PNG" and "exif" not in image.info and "Raw profile type exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF blocks are common, and viewers ignore them
        return 1
    return value if value in _UPRIGHT else 1


def load_picture(
    path: Path | str, upright: bool = True, needed: tuple[int, int] | None = None
) -> UInt8[Tensor, "3 H W"]:
    """Pixels of a file, RGB 0–255.

    EXIF rotation is applied unless ``upright`` is False; grey, palette, CMYK and 16-bit pictures are
    converted; transparency is put on white, as viewers do.

    Args:
        needed: height and width to which the picture will be resized: a JPEG may then come at 1/2, 1/4 or 1/8
            of its size, at least SPARE times as large as that. None decodes everything in full.

    Raises:
        UserError: the file is missing or cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            reduced = needed is not None and _reduce(image, needed, upright)
            pixels = None if reduced else _decode_jpeg(path, image, upright)
            return to_tensor(image, upright) if pixels is None else pixels
    except FileNotFoundError:
        raise UserError(f"{path}: the picture is missing.") from None
    except Exception as error:  # decoders raise nearly anything on damaged input
        raise UserError(f"{path}: the picture {_explain(error)}.") from None


def _reduce(image: Image.Image, needed: tuple[int, int], upright: bool) -> bool:
    """Have a JPEG decoded with fewer DCT coefficients, which takes a fraction of the time, if it is large enough."""
    before = image.size
    height, width = reversed(needed) if upright and orientation(image) >= 5 else needed
    image.draft(None, (math.ceil(SPARE * width), math.ceil(SPARE * height)))
    return image.size != before


def _decode_jpeg(path: Path | str, image: Image.Image, upright: bool) -> UInt8[Tensor, "3 H W"] | None:
    """What PIL would give for a plain JPEG, with fewer copies; None where PIL has to do it."""
    plain = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L")
    if decode_jpeg is None or not plain or (upright and orientation(image) != 1):
        return None
    try:
        pixels = decode_jpeg(torch.from_numpy(np.fromfile(path, np.uint8)), mode=ImageReadMode.RGB)
    except RuntimeError:  # damaged, perhaps: PIL finds the better words
        return None
    return pixels if isinstance(pixels, Tensor) else None


def to_tensor(image: Image.Image, upright: bool = True) -> UInt8[Tensor, "3 H W"]:
    """Pixels of a PIL image, RGB 0–255, upright as its EXIF data says unless ``upright`` is False."""
    turn = orientation(image) if upright else 1
    rgb = _to_rgb(image)
    if turn != 1:
        rgb = rgb.transpose(_UPRIGHT[turn])
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, layer).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """16-bit integers by their high byte; floats as fractions if none exceeds 1."""
    if pixels.dtype.kind == "f":
        pixels = np.nan_to_num(pixels)
        return np.clip(np.rint(pixels * (255 if pixels.max(initial=0) <= 1 else 1)), 0, 255).astype(np.uint8)
    return np.clip(pixels.astype(np.int64) >> 8, 0, 255).astype(np.uint8)


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


def _explain(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "is not in a picture format that can be read"
    if isinstance(error, Image.DecompressionBombError):
        return "is too large to be decoded safely: cut it into tiles"
    return f"cannot be decoded ({str(error) or type(error).__name__})"
