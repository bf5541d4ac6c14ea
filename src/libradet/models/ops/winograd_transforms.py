"""Matrices of Winograd's minimal filtering, F(4 x 4, 3 x 3).

Polynomials are evaluated at 0, +-sqrt(1/2), +-sqrt(2) and infinity, in place of the usual 0, +-1, +-2 and infinity:
rounding errors are half as large. In bfloat16, where they are five times those of a direct convolution, this keeps them
near 1 %. The matrices then contain no numbers but multiples of powers of 2 and sqrt(2), which bfloat16 represents well.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

TILE, SPAN = 4, 6
"""Outputs and inputs of a tile along one axis."""

POINTS = (0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
"""Where the polynomials of filter and tile are evaluated, next to infinity."""


class Transforms(NamedTuple):
    """Matrices of a tile's transforms along both axes, or along one: [6, 6], [6, 3] and [4, 6].

    Attributes:
        inputs: [36, 36]
        kernels: [36, 9]
        outputs: [16, 36]
    """

    inputs: Float[Tensor, "_ _"]
    kernels: Float[Tensor, "_ _"]
    outputs: Float[Tensor, "_ _"]


def make_transforms() -> Transforms:
    """Return the matrices along both axes in float64, on the CPU."""
    return Transforms(*(torch.kron(matrix, matrix) for matrix in axis_transforms()))


def axis_transforms(points: Sequence[int | float] = POINTS) -> Transforms:
    """Return the matrices along one axis: those of Toom and Cook's product of polynomials, transposed.

    Args:
        points: five different numbers at which polynomials are evaluated, next to infinity.

    Returns:
        matrices in float64, on the CPU.
    """
    inputs = torch.linalg.inv(_powers(points, SPAN)).T
    # Scaled so that the highest power in each row has the factor 1, and kernels inversely.
    scale = torch.stack([row[row.abs() > 1e-9][-1] for row in inputs])[:, None]
    inputs = (inputs / scale).where(inputs.abs() > 1e-9, 0)
    kernels = _powers(points, SPAN - TILE + 1) * scale
    return Transforms(inputs, kernels, _powers(points, TILE).T.contiguous())


def _powers(points: Sequence[int | float], count: int) -> Float[Tensor, "6 count"]:
    """Return the powers of each point, and the highest one for infinity."""
    # On the CPU, also where another device is the default.
    column = torch.tensor(points, dtype=torch.float64, device="cpu")[:, None]
    infinity = torch.zeros(1, count, dtype=torch.float64, device="cpu")
    infinity[0, -1] = 1
    return torch.cat([column ** torch.arange(count, device="cpu"), infinity])
