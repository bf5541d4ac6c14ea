"""Resizing to a short and a long side, the same for training, evaluation and prediction."""

from collections.abc import Sequence
from numbers import Integral
from typing import Annotated, Literal

from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from libradet.errors import UserError

SIZE_WORDS = (
    "two whole numbers of pixels above 0, those of the shorter and the longer side, such as (800, 1333), or original"
)

Size = Annotated[tuple[int, int] | Literal["original"], SIZE_WORDS]
"""(short, long): the short side becomes ``short`` unless the long one would exceed ``long``. "original": unchanged."""

Scales = Annotated[Sequence[int | Size], "a list of shorter sides or (short, long) sides in pixels, such as [640, 800]"]
"""Sizes of test-time augmentation; a shorter side alone keeps the ratio of the model's own size."""


def check_size(size: Size) -> None:
    """Raise UserError unless ``size`` is "original" or two whole numbers of pixels, the shorter side first."""
    if isinstance(size, str) and size == "original":
        return
    sides = list(size) if isinstance(size, list | tuple) else []
    if len(sides) == 2 and all(isinstance(side, Integral) for side in sides) and 0 < sides[0] <= sides[1]:
        return
    raise UserError(f"size is {sides or size}: it must be {SIZE_WORDS}")


def target_size(height: int, width: int, size: Size) -> tuple[int, int]:
    """Return height and width after resizing."""
    if size == "original":
        return height, width
    short, long = size
    scale = min(short / min(height, width), long / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def cached_size(height: int, width: int, size: Size, max_scale: float | None) -> tuple[int, int]:
    """Return height and width at which an image's pixels are cached between epochs.

    This is the size after resizing; with scale jitter of up to ``max_scale`` it is ``max_scale`` times as large, but
    no larger than the original.
    """
    rows, columns = target_size(height, width, size)
    if max_scale is None:
        return rows, columns
    return min(height, round(rows * max_scale)), min(width, round(columns * max_scale))


def scale_size(height: int, width: int, factor: float) -> tuple[int, int]:
    """Return the sides times a factor, in whole pixels, at least one."""
    return max(1, round(height * factor)), max(1, round(width * factor))


def resize(image: UInt8[Tensor, "3 H W"], size: Size) -> tuple[UInt8[Tensor, "3 h w"], float, float]:
    """Return the image resized (bilinear, antialiased), and its scales in x and y."""
    height, width = image.shape[1:]
    new_height, new_width = target_size(height, width, size)
    return resize_to(image, new_height, new_width), new_width / width, new_height / height


def resize_to(image: UInt8[Tensor, "3 H W"], height: int, width: int) -> UInt8[Tensor, "3 {height} {width}"]:
    """Return the image resized (bilinear, antialiased); the same tensor if it already has that size."""
    if image.shape[1:] == (height, width):
        return image
    return F.resize(image, [height, width], InterpolationMode.BILINEAR, antialias=True)
