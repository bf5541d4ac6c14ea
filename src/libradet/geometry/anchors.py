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
    """Compute the anchors of one cell, ratios (height over width) outermost, of area (scale x stride)².

    Args:
        offset: shift of the center in strides: 0 is the cell's corner, 0.5 its center.
        rounded: round the corners to whole pixels, as torchvision does.
        truncated: truncate scale x stride to whole pixels, as torchvision does.
    """
    # On the CPU: not every device has float64, and arithmetic on the meta device needs torch's compiler.
    scale, ratio = (torch.tensor(values, dtype=torch.float64, device="cpu") for values in (scales, ratios))
    side = (stride * scale).floor() if truncated else stride * scale
    width = (side[None, :] / ratio[:, None].sqrt()).flatten()
    height = (side[None, :] * ratio[:, None].sqrt()).flatten()
    corners = torch.stack([-width, -height, width, height], dim=1) / 2
    corners = corners.round() if rounded else corners
    return (corners + offset * stride).float().to(torch.get_default_device())


def grid_anchors(
    base: Float[Tensor, "A 4"], height: int, width: int, stride: int, padded_size: tuple[int, int] | None = None
) -> Float[Tensor, "N 4"]:
    """Repeat base anchors over a grid of ``height`` x ``width`` cells: cells row by row, anchors innermost.

    Args:
        padded_size: (height, width) in pixels; if set, the stride of each axis is this size divided by the number of
            cells, rounded down, instead of ``stride``.
    """
    step_y, step_x = (padded_size[0] // height, padded_size[1] // width) if padded_size else (stride, stride)
    x = torch.arange(width, device=base.device, dtype=base.dtype) * step_x
    y = torch.arange(height, device=base.device, dtype=base.dtype) * step_y
    y, x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([x, y, x, y], dim=-1).view(-1, 1, 4)
    return (shifts + base).view(-1, 4)


def inside_image(
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    num_anchors_per_location: int,
    sizes: Int[Tensor, "B 2"],
) -> Bool[Tensor, "B N"]:
    """Return whether the cell of each anchor (levels concatenated) starts inside the image, not in its padding.

    Args:
        shapes: height and width of each level.
        sizes: height and width of each image.
    """
    inside = []
    for (height, width), stride in zip(shapes, strides, strict=True):
        y = torch.arange(height, device=sizes.device) * stride < sizes[:, :1]
        x = torch.arange(width, device=sizes.device) * stride < sizes[:, 1:]
        cells = (y[:, :, None] & x[:, None, :]).flatten(1)
        inside.append(cells.repeat_interleave(num_anchors_per_location, dim=1))
    return torch.cat(inside, dim=1)


def within_border(
    anchors: Float[Tensor, "A 4"], sizes: Int[Tensor, "B 2"], allowed_border: float
) -> Bool[Tensor, "B A"]:
    """Return whether an anchor crosses the border of an image by at most ``allowed_border`` pixels.

    Faster R-CNN (Ren et al., 2015) ignores anchors that cross it at all in training.
    """
    ends = sizes.flip(1)[:, None] + allowed_border
    return (anchors[:, :2] >= -allowed_border).all(1) & (anchors[:, 2:] < ends).all(2)
