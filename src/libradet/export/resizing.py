"""Resizing inside a graph whose image sizes stay open, to the bit what torch does to uint8 images.

torch resizes uint8 images (bilinear, antialiased) one axis after the other, with weights of whole numbers, and
rounds to whole pixel values after each. ONNX's Resize rounds elsewhere, so here both axes are products with a matrix
of those weights, whole numbers in float32: exact up to four times smaller, and beyond that but for rare ties.
"""

import torch
from jaxtyping import Float, Float64, Int, Num
from torch import Tensor

from libradet.data.loading.transforms import Size

_MOST_BITS = 22
_LARGEST_WEIGHT = 2**15


def target_sides(height: int, width: int, size: Size, like: Tensor) -> Int[Tensor, "2"]:
    """Height and width after resizing, as :func:`libradet.data.loading.transforms.target_size` says."""
    sides = torch.stack([_scalar(side, like) for side in (height, width)])
    if size == "original":
        return sides.long()
    short, long = size
    scale = torch.minimum(short / sides.amin(0), long / sides.amax(0))
    return (sides * scale + 0.5).floor().clamp(min=1).long()


def resize_onto_canvas(
    images: Num[Tensor, "B 3 H W"], sides: Int[Tensor, "2"], height: int, width: int
) -> Float[Tensor, "B 3 {height} {width}"]:
    """Images resized to ``sides``, 0-255 in whole numbers, in the corner of a canvas of zeros."""
    across = _weights(images.shape[3], sides[1], width)
    down = _weights(images.shape[2], sides[0], height)
    rows = _rounded(images.float() @ across[0].t(), across[1])
    return _rounded(down[0] @ rows, down[1])


def _weights(source: int, target: Int[Tensor, ""], cells: int) -> tuple[Float[Tensor, "cells source"], Tensor]:
    """What each pixel of a canvas's side takes of each of the image's, in whole numbers, and what they sum to."""
    cell, pixel = (torch.arange(n, dtype=torch.float64, device=target.device) + 0.5 for n in (cells, source))
    scale = _scalar(source, target) / target
    distance = (pixel - cell[:, None] * scale).abs() / scale.clamp(min=1)
    weights = (1 - distance).clamp(min=0) * (cell < target)[:, None]
    total = weights.sum(1, keepdim=True)
    weights = weights / total.where(total > 0, 1)
    unit = _unit(weights.amax((0, 1)))
    return (weights * unit + 0.5).floor().float(), unit.float()


def _unit(largest: Float64[Tensor, ""]) -> Float64[Tensor, ""]:
    """The power of two by which torch multiplies weights, so that they fit into 16 bits."""
    powers = torch.tensor([2.0**k for k in range(_MOST_BITS + 1)], dtype=torch.float64, device=largest.device)
    fitting = (largest * powers[1:] + 0.5).floor() < _LARGEST_WEIGHT
    return powers[fitting.sum()]


def _rounded(sums: Tensor, unit: Tensor) -> Tensor:
    return (sums / unit + 0.5).floor().clamp(0, 255)


def _scalar(value: int, like: Tensor) -> Float64[Tensor, ""]:
    return torch.full((), value, dtype=torch.float64, device=like.device)
