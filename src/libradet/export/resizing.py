"""Resizing with dynamic image sizes inside a graph, bit for bit as torch resizes uint8 images.

torch resizes uint8 images (bilinear, antialiased) one axis after the other, with integer weights, and rounds to
integers after each. ONNX's Resize rounds differently, so here each axis is multiplied by a matrix of these weights,
integers in float32: exact down to a fourth of the size, and below it except for rare ties.
"""

import torch
from jaxtyping import Float, Float64, Int, Num
from torch import Tensor

from libradet.data.transforms.resize import Size

_MAX_BITS = 22
_MAX_WEIGHT = 2**15


def target_sides(height: int, width: int, size: Size, like: Tensor) -> Int[Tensor, "2"]:
    """Return height and width after resizing, as :func:`libradet.data.transforms.resize.target_size`."""
    sides = torch.stack([_scalar(side, like) for side in (height, width)])
    if size == "original":
        return sides.long()
    short, long = size
    scale = torch.minimum(short / sides.amin(0), long / sides.amax(0))
    return (sides * scale + 0.5).floor().clamp(min=1).long()


def resize_onto_canvas(
    images: Num[Tensor, "B 3 H W"], sides: Int[Tensor, "2"], height: int, width: int
) -> Float[Tensor, "B 3 {height} {width}"]:
    """Return images resized to ``sides``, 0-255 as integers, in the upper left corner of a canvas of zeros."""
    column_weights, column_unit = _weights(images.shape[3], sides[1], width)
    row_weights, row_unit = _weights(images.shape[2], sides[0], height)
    resized_columns = _round_pixels(images.float() @ column_weights.t(), column_unit)
    return _round_pixels(row_weights @ resized_columns, row_unit)


def _weights(source: int, target: Int[Tensor, ""], cells: int) -> tuple[Float[Tensor, "cells source"], Tensor]:
    """Return the integer weight of each source pixel for each canvas cell along an axis, and the sum of the weights."""
    cell, pixel = (torch.arange(n, dtype=torch.float64, device=target.device) + 0.5 for n in (cells, source))
    scale = _scalar(source, target) / target
    distance = (pixel - cell[:, None] * scale).abs() / scale.clamp(min=1)
    weights = (1 - distance).clamp(min=0) * (cell < target)[:, None]
    total = weights.sum(1, keepdim=True)
    weights = weights / total.where(total > 0, 1)
    unit = _unit(weights.amax((0, 1)))
    return (weights * unit + 0.5).floor().float(), unit.float()


def _unit(largest: Float64[Tensor, ""]) -> Float64[Tensor, ""]:
    """Return the power of two by which torch multiplies weights, so that they fit into 16 bits."""
    powers = torch.tensor([2.0**k for k in range(_MAX_BITS + 1)], dtype=torch.float64, device=largest.device)
    fitting = (largest * powers[1:] + 0.5).floor() < _MAX_WEIGHT
    return powers[fitting.sum()]


def _round_pixels(sums: Tensor, unit: Tensor) -> Tensor:
    return (sums / unit + 0.5).floor().clamp(0, 255)


def _scalar(value: int, like: Tensor) -> Float64[Tensor, ""]:
    return torch.full((), value, dtype=torch.float64, device=like.device)
