"""The package's custom operators in operators of fixed sizes that nearly every runtime has, for files of one shape.

Neither NMS nor RoIAlign nor any shape that depends on data occurs in them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch._higher_order_ops.scan import scan_op

from libradet.export.pt2_format import float32_iou_threshold, roi_align_rows


def batched_nms(
    boxes: Float[Tensor, "B N 4"],
    scores: Float[Tensor, "B N"],
    groups: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    threshold: float,
    size: int,
) -> tuple[Int[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """Compute :func:`libradet.geometry.nms.batched_nms` by a loop over output slots.

    Each step selects the best box that is left, of equal scores that of the lowest row, and removes those that
    overlap it.
    """
    limit, num_boxes = float32_iou_threshold(threshold), scores.shape[1]

    def fill_slot(left: Tensor, boxes: Tensor, groups: Tensor, areas: Tensor, rows: Tensor, _: Tensor) -> list[Tensor]:
        best = left.amax(1, keepdim=True)
        row = torch.where(left == best, rows, num_boxes - 1).amin(1, keepdim=True)
        chosen = boxes.gather(1, row[..., None].expand(-1, -1, 4))
        ends, starts = torch.minimum(chosen[..., 2:], boxes[..., 2:]), torch.maximum(chosen[..., :2], boxes[..., :2])
        sides = (ends - starts).clamp(min=0)
        shared = sides[..., 0] * sides[..., 1]
        iou = shared / (areas.gather(1, row) + areas - shared)
        removed = ((iou > limit) & (groups == groups.gather(1, row))) | (rows == row)
        left = torch.where(removed, -torch.inf, left)
        # No output of a step may be an input or share memory with another output.
        constants = [t.clone() for t in (boxes, groups, areas, rows)]
        return [left, *constants, row.squeeze(1).clone(), (best > -torch.inf).squeeze(1).clone()]

    areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    rows = torch.arange(num_boxes, device=boxes.device).expand_as(groups).contiguous()
    slots = torch.zeros(size, dtype=torch.int64, device=boxes.device)
    left = torch.where(valid, scores, -torch.inf)
    # Also what stays the same is part of the state: some runtimes' loops cannot read the tensors around them.
    state = [left, boxes.contiguous(), groups.contiguous(), areas, rows]
    *_, chosen, filled = scan_op(fill_slot, state, [slots], ())
    return torch.where(filled, chosen, 0).t().contiguous(), filled.t().contiguous()


class _Samples(NamedTuple):
    """Bilinear sampling points along one axis, one for each bin.

    Attributes:
        cells: the two nearest cells.
        weights: of these cells; 0 outside of the features.
    """

    cells: tuple[Int[Tensor, "B S size"], Int[Tensor, "B S size"]]
    weights: tuple[Float[Tensor, "B S size"], Float[Tensor, "B S size"]]


def pyramid_roi_align(
    pyramid: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "B S 4"],
    levels: Int[Tensor, "B S"],
    strides: Sequence[int],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Float[Tensor, "BS C size size"]:
    """Compute the operator of :mod:`libradet.geometry.roi_align` by gathering cells of all levels at once.

    Where the number of sampling points adapts to the box, torchvision's operator runs on all boxes at each level.
    """
    if sampling_ratio < 1:
        return _align_at_each_level(pyramid, boxes, levels, strides, size, aligned)

    heights, widths = ([x.shape[axis] for x in pyramid] for axis in (2, 3))
    sizes = [height * width for height, width in zip(heights, widths, strict=True)]
    cells = torch.cat([x.flatten(2) for x in pyramid], 2).transpose(1, 2).flatten(0, 1)
    image = torch.arange(len(boxes), device=boxes.device)[:, None, None] * sum(sizes)
    first_cell = image + _of_level(levels, [sum(sizes[:level]) for level in range(len(sizes))])
    scaled = boxes * _of_level(levels, [1 / stride for stride in strides]) - (0.5 if aligned else 0.0)
    height, width = _of_level(levels, heights), _of_level(levels, widths)
    total = boxes.new_zeros(levels.numel() * size**2, cells.shape[1])
    for i in range(sampling_ratio):
        y = _sample_axis(scaled[..., 1::2], height, size, i, sampling_ratio, aligned)
        for j in range(sampling_ratio):
            x = _sample_axis(scaled[..., 0::2], width, size, j, sampling_ratio, aligned)
            for row, y_weight in zip(y.cells, y.weights, strict=True):
                for column, x_weight in zip(x.cells, x.weights, strict=True):
                    index = (first_cell + row * width)[..., :, None] + column[..., None, :]
                    weight = y_weight[..., :, None] * x_weight[..., None, :]
                    total = total + cells.index_select(0, index.flatten()) * weight.reshape(-1, 1)
    pooled = (total / sampling_ratio**2).unflatten(0, (levels.numel(), size**2)).transpose(1, 2)
    pooled = torch.where((levels >= 0).flatten()[:, None, None], pooled, 0.0)
    return pooled.unflatten(2, (size, size))


def _of_level(levels: Int[Tensor, "B S"], values: Sequence[int] | Sequence[float]) -> Tensor:
    """Return for each box the value of its level [B, S, 1]."""
    dtype = torch.int64 if isinstance(values[0], int) else torch.float32
    result = torch.full_like(levels, values[0], dtype=dtype)
    for level, value in enumerate(values[1:], start=1):
        result = torch.where(levels == level, value, result)
    return result[..., None]


def _sample_axis(
    ends: Float[Tensor, "B S 2"], length: Int[Tensor, "B S 1"], size: int, number: int, count: int, aligned: bool
) -> _Samples:
    """Return sampling point ``number`` of ``count`` in each of ``size`` bins between two ends."""
    start, side = ends[..., :1], ends[..., 1:] - ends[..., :1]
    step = (side if aligned else side.clamp(min=1)) / size
    point = start + torch.arange(size, device=ends.device) * step + (number + 0.5) * step / count
    inside = (point >= -1) & (point <= length)
    point = point.clamp(min=0)
    below = torch.minimum(point.floor().long(), length - 1)
    above = torch.minimum(below + 1, length - 1)
    share = torch.where(below < length - 1, point - below, 0.0)
    return _Samples((below, above), ((1 - share) * inside, share * inside))


def _align_at_each_level(
    pyramid: Sequence[Tensor], boxes: Tensor, levels: Tensor, strides: Sequence[int], size: int, aligned: bool
) -> Float[Tensor, "BS C size size"]:
    rows = torch.arange(levels.numel(), device=boxes.device)
    result = boxes.new_zeros(levels.numel(), pyramid[0].shape[1], size, size)
    for level, (features, stride) in enumerate(zip(pyramid, strides, strict=True)):
        pooled = roi_align_rows(features, boxes, rows, 1 / stride, size, 0, aligned)
        result = torch.where((levels.flatten() == level)[:, None, None, None], pooled, result)
    return result


STATIC_DECOMPOSITIONS: dict[torch._ops.OperatorBase, Callable] = {
    torch.ops.libradet.batched_nms.default: batched_nms,
    torch.ops.libradet.pyramid_roi_align.default: pyramid_roi_align,
}
