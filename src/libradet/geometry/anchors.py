"""Anchors: reference boxes at every cell of every pyramid level."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def base_anchors(
    stride: int,
    scales: Sequence[float],
    ratios: Sequence[float],
    offset: float = 0.0,
    rounded: bool = False,
    truncated: bool = False,
) -> Float[Tensor, "A 4"]:
    """Anchors of one cell, ratios (height over width) outermost, of area (scale x stride)².

    ``offset`` moves the center by that part of a stride: 0 is the cell's corner, 0.5 its center.
    ``truncated`` cuts scale x stride, and ``rounded`` rounds the corners, to whole pixels, as torchvision does.
    """
    scale, ratio = torch.tensor(scales, dtype=torch.float64), torch.tensor(ratios, dtype=torch.float64)
    side = (stride * scale).floor() if truncated else stride * scale
    width = (side[None, :] / ratio[:, None].sqrt()).flatten()
    height = (side[None, :] * ratio[:, None].sqrt()).flatten()
    corners = torch.stack([-width, -height, width, height], dim=1) / 2
    corners = corners.round() if rounded else corners
    return (corners + offset * stride).float()


def grid_anchors(
    base: Float[Tensor, "A 4"], height: int, width: int, stride: int, canvas: tuple[int, int] | None = None
) -> Float[Tensor, "N 4"]:
    """Base anchors repeated over a grid of ``height`` x ``width`` cells: cells row by row, anchors innermost.

    With ``canvas`` (height, width), cells are as large as whole pixels allow for the grid to fit on it,
    whatever ``stride`` says.
    """
    step_y, step_x = (canvas[0] // height, canvas[1] // width) if canvas else (stride, stride)
    x = torch.arange(width, device=base.device, dtype=base.dtype) * step_x
    y = torch.arange(height, device=base.device, dtype=base.dtype) * step_y
    y, x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)
    return (shifts + base).view(-1, 4)


def inside_image(
    shapes: Sequence[tuple[int, int]], strides: Sequence[int], per_cell: int, sizes: Int[Tensor, "B 2"]
) -> Bool[Tensor, "B N"]:
    """Whether the cell of each anchor (levels concatenated) starts inside the image, not in its padding."""
    inside = []
    for (height, width), stride in zip(shapes, strides, strict=True):
        y = torch.arange(height, device=sizes.device) * stride < sizes[:, :1]
        x = torch.arange(width, device=sizes.device) * stride < sizes[:, 1:]
        cells = (y[:, :, None] & x[:, None, :]).flatten(1)
        inside.append(cells.repeat_interleave(per_cell, dim=1))
    return torch.cat(inside, dim=1)


def within_border(anchors: Float[Tensor, "A 4"], sizes: Int[Tensor, "B 2"], allowed: float) -> Bool[Tensor, "B A"]:
    """Whether an anchor crosses the border of an image by no more than ``allowed`` pixels.

    As in Faster R-CNN (Ren et al., 2015), where anchors that cross it at all are left out of training.
    """
    ends = sizes.flip(1)[:, None] + allowed
    return (anchors[:, :2] >= -allowed).all(1) & (anchors[:, 2:] < ends).all(2)
