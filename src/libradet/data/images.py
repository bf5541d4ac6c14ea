"""The pixels of image files, upright and in RGB."""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from libradet.data.headers import FORMATS, explain, orientation
from libradet.errors import UserError

try:  # torchvision means to drop it: PIL gives the same pixels then, in a third more time
    from torchvision.io import ImageReadMode, decode_jpeg
except ImportError:
    decode_jpeg = None

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


def load_image(
    path: Path | str,
    upright: bool = True,
    needed: tuple[int, int] | None = None,
    known: tuple[int, int] | None = None,
) -> UInt8[Tensor, "3 H W"]:
    """Pixels of a file, RGB 0-255.

    EXIF rotation is applied unless ``upright`` is False; gray, palette, CMYK and 16-bit images are
    converted; transparency is put on white, as viewers do.

    Args:
        needed: height and width to which the image will be resized: a JPEG may then come at 1/2, 1/4 or 1/8
            of its size, at least SPARE times as large as that. None decodes everything in full.
        known: height and width that it had when its boxes were checked.

    Raises:
        UserError: the file is missing, cannot be decoded, or has another size than is known.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            _refuse_other_size(path, image, upright, known)
            reduced = needed is not None and _reduce(image, needed, upright)
            pixels = None if reduced else _decode_jpeg(path, image, upright)
            return to_tensor(image, upright) if pixels is None else pixels
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: the image is missing.") from None
    except Exception as error:  # decoders raise nearly anything on damaged input
        raise UserError(f"{path}: the image {explain(error)}.") from None


def _refuse_other_size(path: Path | str, image: Image.Image, upright: bool, known: tuple[int, int] | None) -> None:
    if known is None:
        return
    height, width = image.size if upright and orientation(image) >= 5 else image.size[::-1]
    if (height, width) != known:
        raise UserError(
            f"{path}: the image was exchanged: it is {width}x{height} and was {known[1]}x{known[0]} when its boxes "
            "were checked; bring the old one back, or start anew"
        )


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
    """Pixels of a PIL image, RGB 0-255, upright as its EXIF data says unless ``upright`` is False."""
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
