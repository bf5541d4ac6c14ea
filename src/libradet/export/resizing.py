"""Resizing with dynamic image sizes inside a graph, bit for bit as torch resizes uint8 images.

torch resizes uint8 images (bilinear, antialiased) one axis after the other, with integer weights, and rounds to
integers after each. ONNX's Resize rounds differently, so here each axis is multiplied by a matrix of these weights,
integers in float32: exact down to a fourth of the size, and below it except for rare ties.

torch computes the weights in float64, which several runtimes execute in float32 without a warning. They are ratios of
integers, so here they come from integers and from float32 numbers that represent integers exactly.
"""

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from libradet.data.transforms.resize import Size

_MIN_BITS, _MAX_BITS = 14, 22
_WEIGHT_BITS = 15
"""torch's weights have fewer bits, so that they fit into 16-bit integers."""

_SIDE_BITS = 15
"""Sides have at most as many bits; products of two sides fit into 32-bit integers, as some runtimes compute in them."""


def target_sides(height: int, width: int, size: Size, like: Tensor) -> Int[Tensor, "2"]:
    """Return height and width after resizing, as :func:`libradet.data.transforms.resize.target_size`."""
    sides = torch.stack([torch.full((), side, dtype=torch.int64, device=like.device) for side in (height, width)])
    if size == "original":
        return sides
    smaller, larger = sides.amin(0), sides.amax(0)
    short, long = (torch.full_like(smaller, side) for side in size)
    # The scale is the smaller one of short / smaller and long / larger.
    by_short = short * larger <= long * smaller
    numerator, denominator = torch.where(by_short, short, long), torch.where(by_short, smaller, larger)
    doubled = 2 * sides * numerator + denominator
    rounded = doubled.div(2 * denominator, rounding_mode="floor")
    is_half = doubled % (2 * denominator) == 0
    rounds_down = is_half & _is_below_half(numerator, denominator, rounded)
    return (rounded - rounds_down.long()).clamp(min=1)


def _is_below_half(
    numerator: Int[Tensor, ""], denominator: Int[Tensor, ""], rounded: Int[Tensor, "2"]
) -> Bool[Tensor, "2"]:
    """Return whether a resized side of exactly ``rounded`` - 1/2 is less than that in float64.

    There it is the side times the quotient of numerator and denominator, which has 53 bits. The product is below if
    the quotient is rounded down, by more than half the distance of float64 numbers near the product.
    """
    powers = torch.tensor([2**k for k in range(_SIDE_BITS + 1)], device=rounded.device)
    # The quotient of ``above`` and ``below`` has the same bits and lies between 1 and 2.
    above = numerator * powers[(numerator * powers[:-1] < denominator).sum()]
    below = denominator * powers[(numerator >= denominator * powers[1:]).sum()]
    remainder = above % below
    for _ in range(4):
        remainder = remainder * 2**13 % below  # that of above * 2**52 in the end
    odd = 2 * rounded - 1
    exponent = (odd[:, None] >= 2 * powers[1:]).sum(1)
    return (2 * remainder < below) & (remainder * odd > above * powers[exponent])


def resize_onto_canvas(
    images: Num[Tensor, "B 3 H W"], sides: Int[Tensor, "2"], height: int, width: int
) -> Float[Tensor, "B 3 {height} {width}"]:
    """Return images resized to ``sides``, 0-255 as integers, in the upper left corner of a canvas of zeros."""
    columns = resize_weights(images.shape[3], sides[1], width)
    return multiply_weights(images, resize_weights(images.shape[2], sides[0], height), columns)


def multiply_weights(
    images: Num[Tensor, "B 3 H W"],
    rows: tuple[Float[Tensor, "h H"], Float[Tensor, ""]],
    columns: tuple[Float[Tensor, "w W"], Float[Tensor, ""]],
) -> Float[Tensor, "B 3 h w"]:
    """Return images resized by the weights, and their sums, of both axes."""
    (row_weights, row_unit), (column_weights, column_unit) = rows, columns
    resized_columns = _round_pixels(images.float() @ column_weights.t(), column_unit)
    return _round_pixels(row_weights @ resized_columns, row_unit)


def resize_weights(
    source: int, target: Int[Tensor, ""], cells: int
) -> tuple[Float[Tensor, "cells source"], Float[Tensor, ""]]:
    """Return the integer weight of each source pixel for each canvas cell along an axis, and the sum of the weights."""
    shares = _shares(source, target, cells)
    totals = shares.sum(1, keepdim=True).clamp(min=1)
    unit = _unit(shares, totals)
    return _round_ratio(shares, totals, unit), unit


def _shares(source: int, target: Int[Tensor, ""], cells: int) -> Float[Tensor, "cells source"]:
    """Return weights as integers that are not normalized: the distance at which they are 0, minus the distance.

    Unit of distances is a pixel over 2 * target. Then the center of pixel p is at (2 * p + 1) * target, that of cell
    c at (2 * c + 1) * source. Both are counted from the first edge of the pixel below the cell's center, so that the
    numbers near the center are small.
    """
    cell, pixel = (torch.arange(n, device=target.device) for n in (cells, source))
    nearest = ((2 * cell + 1).float() * (source / (2 * target.float()))).floor().long()  # or a neighbor of it
    center = ((2 * cell + 1) * source - 2 * nearest * target)[:, None].float()
    distance = ((2 * (pixel - nearest[:, None]) + 1).float() * target.float() - center).abs()
    reach = 2 * target.clamp(min=source).float()
    return (reach - distance).clamp(min=0) * (cell < target)[:, None]


def _unit(shares: Float[Tensor, "cells source"], totals: Float[Tensor, "cells 1"]) -> Float[Tensor, ""]:
    """Return the power of two by which torch multiplies weights: the largest for which all are below 2**15.

    A weight share / total is not below if share / total * unit + 1/2 >= 2**15. This is compared with integers: the
    difference from 2**15 * total is small where it matters.
    """
    counts = range(_MIN_BITS + 1, _MAX_BITS + 1)
    factors = torch.tensor([2.0 ** (bits - _WEIGHT_BITS) for bits in counts], device=shares.device)
    missing = totals - shares.amax(1, keepdim=True) * factors
    too_large = (2.0 ** (_WEIGHT_BITS + 1) * missing <= totals).any(0)
    powers = torch.tensor([2.0**bits for bits in (_MIN_BITS, *counts)], device=shares.device)
    return powers[(~too_large).sum()]


def _round_ratio(
    shares: Float[Tensor, "cells source"], totals: Float[Tensor, "cells 1"], unit: Float[Tensor, ""]
) -> Float[Tensor, "cells source"]:
    """Return shares * unit / totals, rounded to integers and halves up: exact for totals below 2**19."""
    ratio = (shares / totals * unit + 0.5).floor()  # or a neighbor of it
    high = (ratio / 2**10).floor()
    middle = (ratio / 2**5).floor() - high * 2**5
    low = ratio - high * 2**10 - middle * 2**5
    # Digit by digit, every product and difference has at most 24 bits.
    remainder = shares * (unit / 2**10) - high * totals
    remainder = remainder * 2**5 - middle * totals
    remainder = 2 * (remainder * 2**5 - low * totals)
    # Less of negative numbers would be wrong in MNN.
    return ratio + (remainder >= totals).float() - (-remainder > totals).float()


def _round_pixels(sums: Tensor, unit: Tensor) -> Tensor:
    return (sums / unit + 0.5).floor().clamp(0, 255)
