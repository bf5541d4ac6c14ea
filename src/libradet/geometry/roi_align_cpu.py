"""RoIAlign of one image on the CPU, as a sparse matrix product: bilinear weights times pixels, forward and backward.

Both directions are weighted sums of rows, which ``embedding_bag`` computes with wide vectors and all threads. In the
backward pass each pixel sums over the bins that read it: nothing is written twice, and the order is always the same.
Sums are in float32, or in float64 where the features are.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

# Small enough that the float32 tables of pixels and bins stay small; fewer channels would need more passes.
CHANNELS_PER_CHUNK = 128


class SamplingPoints(NamedTuple):
    """Pixels that the bins of boxes read from the pyramid of one image, and their bilinear weights.

    Boxes with the same number of pixels per bin are grouped together.

    Attributes:
        rows: of these boxes.
        pixel: index of each pixel that a bin reads, levels concatenated, each in row-major order.
        weight: of each pixel in the bin.
    """

    rows: Int[Tensor, "N"]
    pixel: Int[Tensor, "N bins points"]
    weight: Float[Tensor, "N bins points"]


def sampling_points(
    boxes: Float[Tensor, "S 4"],
    levels: Int[Tensor, "S"],
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> list[SamplingPoints]:
    """Compute the sampling points of the boxes of one image, grouped by their number per bin.

    Boxes are left out if their level is negative or their size yields no points. Positions are computed in the
    precision of ``boxes`` and in torchvision's order of operations, so that points fall on the same side of a border.

    Args:
        shapes: height and width of each level.
        sampling_ratio: points per bin and axis; 0: as many as a bin is pixels long.
    """
    rows = (levels >= 0).nonzero().squeeze(1)
    level = levels[rows]
    extent = torch.tensor(shapes)
    num_pixels = extent.prod(1)
    first_pixel, extent = (num_pixels.cumsum(0) - num_pixels)[level], extent[level]
    scale = torch.tensor([1 / s for s in strides], dtype=boxes.dtype)[level, None]
    # Axis order is (y, x) from here on.
    low, high = (boxes[rows].view(-1, 2, 2).flip(2) * scale[..., None] - (0.5 if aligned else 0.0)).unbind(1)
    step = ((high - low) if aligned else (high - low).clamp(min=1)) / size
    points = torch.full_like(extent, sampling_ratio) if sampling_ratio > 0 else step.ceil().long()

    def group(pair: tuple[int, ...]) -> SamplingPoints:
        own = (points == points.new_tensor(pair)).all(1).nonzero().squeeze(1)
        (y, y_weight), (x, x_weight) = (
            _points_along_axis(low[own, i], step[own, i], extent[own, i], size, pair[i], sampling_ratio == 0)
            for i in (0, 1)
        )
        y = (y * extent[own, 1, None, None] + first_pixel[own, None, None]).int()
        pixel = y[:, :, None, :, None] + x.int()[:, None, :, None, :]
        weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
        return SamplingPoints(rows[own], *(t.flatten(3).flatten(1, 2) for t in (pixel, weight)))

    return [group(pair) for pair in sorted(set(map(tuple, points.tolist()))) if min(pair) > 0]


def _points_along_axis(
    start: Float[Tensor, "N"], step: Float[Tensor, "N"], extent: Int[Tensor, "N"], size: int, points: int, dense: bool
) -> tuple[Int[Tensor, "N size points"], Float[Tensor, "N size points"]]:
    """Return the pixels that bins read along one axis, and their weights. Points more than a pixel outside read zeros.

    Args:
        dense: points lie at most a pixel apart, so that a bin reads one pixel more than it has points.
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


def gather_bins(
    features: Sequence[Float[Tensor, "C _ _"]], groups: Sequence[SamplingPoints], out: Float[Tensor, "S C bins"]
) -> None:
    """Write the bins of all boxes that have sampling points to ``out``."""
    if not groups:
        return
    pixels = [x[0].numel() for x in features]
    for c in _channel_chunks(out):
        table = torch.empty(sum(pixels), out[:1, c].shape[1], dtype=_accumulation_dtype(out.dtype))
        for part, x in zip(table.split(pixels), features, strict=True):
            part.copy_(x[c].flatten(1).t())
        for rows, pixel, weight in groups:
            sums = F.embedding_bag(pixel.flatten(0, 1), table, mode="sum", per_sample_weights=weight.flatten(0, 1))
            bins = sums.unflatten(0, pixel.shape[:2]).transpose(1, 2)
            out[:, c].index_copy_(0, rows, bins.to(out.dtype))


def gather_bin_rows(
    pixels: Float[Tensor, "pixels C"], groups: Sequence[SamplingPoints], num_boxes: int, bins: int
) -> Float[Tensor, "S bins C"]:
    """Return the bins of boxes with channels last; zeros for boxes without sampling points.

    Args:
        pixels: of all levels, each in row-major order; in bfloat16, weights are rounded, too, and sums are in float32.
    """
    pooled = []
    for _, pixel, weight in groups:
        weight = weight.flatten(0, 1).to(pixels.dtype)
        pooled.append(F.embedding_bag(pixel.flatten(0, 1), pixels, mode="sum", per_sample_weights=weight))
    if len(groups) == 1 and len(groups[0].rows) == num_boxes:  # rows are in order
        return pooled[0].unflatten(0, (num_boxes, bins))
    out = pixels.new_zeros(num_boxes, bins, pixels.shape[1])
    for (rows, *_), sums in zip(groups, pooled, strict=True):
        out.index_copy_(0, rows, sums.unflatten(0, (-1, bins)))
    return out


def scatter_bins(
    grad: Float[Tensor, "S C bins"], groups: Sequence[SamplingPoints], grads: Sequence[Float[Tensor, "C _ _"]]
) -> None:
    """Write the gradients of the features, from the gradient of the bins, to ``grads``."""
    if not groups:
        for g in grads:
            g.zero_()
        return
    pixels = [g[0].numel() for g in grads]
    bins = torch.arange(grad[:, 0].numel(), dtype=torch.int32).view(len(grad), -1, 1)
    reader = torch.cat([bins[rows].expand_as(pixel).flatten() for rows, pixel, _ in groups])
    weight = torch.cat([points.weight.flatten() for points in groups])
    pixel, order = torch.cat([points.pixel.flatten() for points in groups]).sort(stable=True)
    reader, weight = reader.index_select(0, order), weight.index_select(0, order)
    starts = torch.searchsorted(pixel, torch.arange(sum(pixels) + 1, dtype=pixel.dtype), out_int32=True)
    for c in _channel_chunks(grad):
        rows = grad[:, c].transpose(1, 2)
        table = torch.empty(rows.shape, dtype=_accumulation_dtype(grad.dtype)).copy_(rows).flatten(0, 1)
        sums = F.embedding_bag(reader, table, starts, mode="sum", per_sample_weights=weight, include_last_offset=True)
        for part, g in zip(sums.split(pixels), grads, strict=True):
            g[c].copy_(part.t().unflatten(1, g.shape[1:]))


def _channel_chunks(bins: Tensor) -> Iterator[slice]:
    return (slice(c, c + CHANNELS_PER_CHUNK) for c in range(0, bins.shape[1], CHANNELS_PER_CHUNK))


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
