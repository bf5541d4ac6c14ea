"""The pixels of picture files, upright and in RGB."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from libradet.data.headers import explain, orientation
from libradet.errors import UserError

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_picture(path: Path | str, upright: bool = True) -> UInt8[Tensor, "3 H W"]:
    """Pixels of a file, RGB 0–255.

    EXIF rotation is applied unless ``upright`` is False; grey, palette, CMYK and 16-bit pictures are
    converted; transparency is put on white, as viewers do.

    Raises:
        UserError: the file is missing or cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            return to_tensor(image, upright)
    except FileNotFoundError:
        raise UserError(f"{path}: the picture is missing.") from None
    except Exception as error:  # decoders raise nearly anything on damaged input
        raise UserError(f"{path}: the picture {explain(error)}.") from None


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
