"""Decoding of images to upright RGB tensors."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from libradet.data.bit_depth import DEFAULT_BIT_DEPTH
from libradet.data.image_headers import PIL_FORMATS, describe_decode_error, exif_orientation
from libradet.errors import UserError

try:  # torchvision plans to remove it; PIL then decodes the same pixels in a third more time
    from torchvision.io import ImageReadMode, decode_jpeg
except ImportError:
    decode_jpeg = None

_EXIF_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

MIN_REDUCTION_MARGIN = 1.5
"""Minimum size, as a multiple of the target size, of a JPEG that is decoded at reduced size. The mean difference
from a full decoding is then below two of 255 levels, about that between bilinear and bicubic resizing."""


def read_image(
    path: Path | str,
    apply_exif: bool = True,
    target_size: tuple[int, int] | None = None,
    expected_size: tuple[int, int] | None = None,
    bit_depth: int = DEFAULT_BIT_DEPTH,
) -> UInt8[Tensor, "3 H W"]:
    """Read the pixels of a file, RGB 0-255.

    Gray, palette, CMYK and 16-bit images are converted; transparent pixels are blended with white.

    Args:
        path: the file.
        apply_exif: rotate the image as its EXIF data says.
        target_size: height and width to which the image will be resized: a JPEG may then be decoded at 1/2, 1/4 or
            1/8 of its size, at least MIN_REDUCTION_MARGIN times as large as that. None decodes everything in full.
        expected_size: height and width that the image had when its boxes were validated.
        bit_depth: of the values in 16-bit files: 2**bit_depth - 1 is white.

    Raises:
        UserError: the file is missing, cannot be decoded, or does not have the expected size.
    """
    try:
        with Image.open(path, formats=PIL_FORMATS) as image:
            _check_size(path, image, apply_exif, expected_size)
            reduced = target_size is not None and _reduce_jpeg(image, target_size, apply_exif)
            pixels = None if reduced else _decode_jpeg(path, image, apply_exif)
            return pil_to_tensor(image, apply_exif, bit_depth) if pixels is None else pixels
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: the image is missing.") from None
    except Exception as error:  # decoders raise almost any exception on damaged input
        raise UserError(f"{path}: the image {describe_decode_error(error, path)}.") from None


def _check_size(path: Path | str, image: Image.Image, apply_exif: bool, expected: tuple[int, int] | None) -> None:
    if expected is None:
        return
    height, width = image.size if apply_exif and exif_orientation(image) >= 5 else image.size[::-1]
    if (height, width) != expected:
        raise UserError(
            f"{path}: the image was replaced: it is {width}x{height} and was {expected[1]}x{expected[0]} when its "
            "boxes were validated. Restore the original file, or start a new run."
        )


def _reduce_jpeg(image: Image.Image, target_size: tuple[int, int], apply_exif: bool) -> bool:
    """Decode a large JPEG with fewer DCT coefficients, which is several times faster. Return whether it will."""
    full_size = image.size
    height, width = reversed(target_size) if apply_exif and exif_orientation(image) >= 5 else target_size
    image.draft(None, (math.ceil(MIN_REDUCTION_MARGIN * width), math.ceil(MIN_REDUCTION_MARGIN * height)))
    return image.size != full_size


def _decode_jpeg(path: Path | str, image: Image.Image, apply_exif: bool) -> UInt8[Tensor, "3 H W"] | None:
    """Decode a plain JPEG to the same pixels as PIL with fewer copies; None where PIL is needed."""
    plain = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L")
    if decode_jpeg is None or not plain or (apply_exif and exif_orientation(image) != 1):
        return None
    try:
        pixels = decode_jpeg(torch.from_numpy(np.fromfile(path, np.uint8)), mode=ImageReadMode.RGB)
    except RuntimeError:  # probably damaged: PIL's message is clearer
        return None
    return pixels if isinstance(pixels, Tensor) else None


def image_to_tensor(image: Any, bit_depth: int = DEFAULT_BIT_DEPTH) -> UInt8[Tensor, "3 H W"]:
    """Return the pixels of a file, a PIL image or an array, RGB 0-255.

    Args:
        image: path, PIL image, or uint8 array (RGB [H, W, 3], RGBA [H, W, 4] or gray [H, W]).
        bit_depth: see :func:`read_image`.

    Raises:
        UserError: something else, or a file that cannot be decoded.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image), bit_depth=bit_depth)
    if isinstance(image, Image.Image):
        return pil_to_tensor(image, bit_depth=bit_depth)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
        if image.ndim == 3 and image.shape[2] == 3:
            contiguous = np.ascontiguousarray(image)
            writable = contiguous if contiguous.flags.writeable else contiguous.copy()  # torch warns of others
            return torch.from_numpy(writable).permute(2, 0, 1)
        if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 4):
            return pil_to_tensor(Image.fromarray(image))
    what = f"{type(image).__name__} {getattr(image, 'dtype', '')} {tuple(getattr(image, 'shape', ()))}"
    raise UserError(f"{what} is not an image: pass a path, a PIL image or a uint8 RGB array [H, W, 3].")


def pil_to_tensor(
    image: Image.Image, apply_exif: bool = True, bit_depth: int = DEFAULT_BIT_DEPTH
) -> UInt8[Tensor, "3 H W"]:
    """Return the pixels of a PIL image, RGB 0-255, rotated as its EXIF data says unless ``apply_exif`` is False."""
    orientation = exif_orientation(image) if apply_exif else 1
    rgb = _to_rgb(image, bit_depth)
    if orientation != 1:
        rgb = rgb.transpose(_EXIF_TRANSPOSE[orientation])
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def _to_rgb(image: Image.Image, bit_depth: int) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bits(np.asarray(image), bit_depth)).convert("RGB")
    if image.has_transparency_data:
        foreground = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(background, foreground).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(pixels: np.ndarray, bit_depth: int) -> np.ndarray:
    """Convert integers to the upper 8 of ``bit_depth`` bits; floats as fractions if none exceeds 1."""
    if pixels.dtype.kind == "f":
        pixels = np.nan_to_num(pixels)
        return np.clip(np.rint(pixels * (255 if pixels.max(initial=0) <= 1 else 1)), 0, 255).astype(np.uint8)
    return np.clip(pixels.astype(np.int64) >> (bit_depth - 8), 0, 255).astype(np.uint8)
