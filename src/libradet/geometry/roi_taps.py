"""What RoIAlign reads: the pixels around each bin's sampling points, and their bilinear weights."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Taps(NamedTuple):
    """What bins read from one image's pyramid, for boxes that have as many taps.

    Attributes:
        rows: which boxes.
        pixel: where each of their bins reads, levels one after the other, each row by row.
        weight: the share of each pixel in the bin.
    """

    rows: Int[Tensor, "N"]
    pixel: Int[Tensor, "N bins taps"]
    weight: Float[Tensor, "N bins taps"]


def image_taps(
    boxes: Float[Tensor, "S 4"],
    levels: Int[Tensor, "S"],
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> list[Taps]:
    """Taps of the boxes of one image, those with as many points together. Not of those whose level is
    negative or whose size gives no points.

    Positions are computed in the precision of ``boxes`` and in torchvision's order, so that points fall on the
    same side of a border.

    Args:
        shapes: height and width of each level.
        sampling_ratio: points per bin and axis; 0: as many as a bin is pixels long.
    """
    rows = (levels >= 0).nonzero().squeeze(1)
    level = levels[rows]
    extent = torch.tensor(shapes)
    area = extent.prod(1)
    first, extent = (area.cumsum(0) - area)[level], extent[level]
    scale = torch.tensor([1 / s for s in strides], dtype=boxes.dtype)[level, None]
    # y before x from here on.
    low, high = (boxes[rows].view(-1, 2, 2).flip(2) * scale[..., None] - (0.5 if aligned else 0.0)).unbind(1)
    step = ((high - low) if aligned else (high - low).clamp(min=1)) / size
    points = torch.full_like(extent, sampling_ratio) if sampling_ratio > 0 else step.ceil().long()

    def group(pair: tuple[int, ...]) -> Taps:
        own = (points == points.new_tensor(pair)).all(1).nonzero().squeeze(1)
        (y, y_weight), (x, x_weight) = (
            _axis_taps(low[own, i], step[own, i], extent[own, i], size, pair[i], sampling_ratio == 0) for i in (0, 1)
        )
        y = (y * extent[own, 1, None, None] + first[own, None, None]).int()
        pixel = y[:, :, None, :, None] + x.int()[:, None, :, None, :]
        weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
        return Taps(rows[own], *(t.flatten(3).flatten(1, 2) for t in (pixel, weight)))

    return [group(pair) for pair in sorted(set(map(tuple, points.tolist()))) if min(pair) > 0]


def _axis_taps(
    start: Float[Tensor, "N"], step: Float[Tensor, "N"], extent: Int[Tensor, "N"], size: int, points: int, dense: bool
) -> tuple[Int[Tensor, "N size taps"], Float[Tensor, "N size taps"]]:
    """Pixels that the bins read along one axis, and their weights. Points more than a pixel outside read zeros.

    Args:
        dense: points lie at most a pixel apart, so that a bin reads a window that is one longer than it has points.
    """
    start, step, last = (t[:, None, None] for t in (start, step, extent - 1))
    bins, offsets = torch.arange(size)[:, None], torch.arange(points) + 0.5
    position = start + bins * step + offsets * step / points
    inside = ((position >= -1) & (position <= last + 1)).to(start.dtype) / points
    position = torch.minimum(position.clamp(min=0), last)
    low = position.floor()
    if dense:
        pixel = low[..., :1] + torch.arange(points + 1)
        share = (1 - (position[..., None] - pixel[:, :, None]).abs()).clamp(min=0)
        weight = (share * inside[..., None]).sum(2)
    else:
        pixel = (low[..., None] + torch.arange(2)).flatten(2)
        share = position - low
        weight = (torch.stack([1 - share, share], -1) * inside[..., None]).flatten(2)
    # The neighbor of the last pixel has no weight.
    return torch.minimum(pixel, last).long(), weight
