"""The package's custom operators, and top-k, translated to ONNX (opset 18)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnxscript import BOOL, FLOAT, INT64
from onnxscript.onnx_opset import opset18

from libradet.export.pt2_format import float32_iou_threshold

OPSET = 18

# Its annotations ask for tensors, but numbers and lists of numbers are accepted, too.
op: Any = opset18

_LOWEST = float(np.finfo(np.float32).min)


def batched_nms(
    boxes: FLOAT, scores: FLOAT, groups: INT64, valid: BOOL, threshold: float, size: int
) -> tuple[INT64, BOOL]:
    """Compute :func:`libradet.geometry.nms.batched_nms`.

    Of equal scores, NonMaxSuppression puts the lower row first, as ours does. Runtimes order equal values of TopK in
    different ways, so here TopK decides only among values that are unique.
    """
    rows, boxes, scores, groups, valid = _valid_first(boxes, scores, groups, valid)
    # Scores [B, groups, N]: each group has scores of its own and shares the boxes.
    group_ids = op.Range(0, op.Add(op.ReduceMax(groups, keepdims=0), 1), 1)
    in_group = op.Equal(op.Unsqueeze(groups, [1]), op.Unsqueeze(group_ids, [0, 2]))
    group_scores = op.Where(op.And(in_group, op.Unsqueeze(valid, [1])), op.Unsqueeze(scores, [1]), -np.inf)
    max_output, min_score = op.Constant(value_ints=[size]), op.Constant(value_floats=[_LOWEST])
    iou_threshold = op.Constant(value_floats=[float32_iou_threshold(threshold)])
    selected = op.NonMaxSuppression(boxes, group_scores, max_output, iou_threshold, min_score)
    indices = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
    kept = op.ScatterND(op.CastLike(op.Expand(0.0, op.Shape(scores)), scores), indices, _ones_for(indices))
    return _top_rows(op.Where(op.Greater(kept, 0.5), scores, -np.inf), rows, size)


def _valid_first(boxes: Any, scores: Any, groups: Any, valid: Any) -> tuple[Any, ...]:
    """Return the rows of valid candidates, in order, in as many columns as the image with most of them needs.

    Returns:
        Rows, and boxes, scores, groups and validity of these rows.
    """
    flags = op.Cast(valid, to=FLOAT.dtype)
    count = op.Cast(op.ReduceMax(op.ReduceSum(flags, [1], keepdims=0), keepdims=0), to=INT64.dtype)
    count = op.Reshape(op.Max(count, op.Constant(value_int=1)), [1])
    rows = _columns_where(op.Greater(flags, 0.5), count)
    flags = op.GatherElements(flags, rows, axis=1)
    box_rows = op.Expand(op.Unsqueeze(rows, [2]), op.Constant(value_ints=[1, 1, 4]))
    boxes = op.GatherElements(boxes, box_rows, axis=1)
    scores, groups = (op.GatherElements(t, rows, axis=1) for t in (scores, groups))
    return rows, boxes, scores, groups, op.Greater(flags, 0.5)


def _columns_where(mask: Any, count: Any) -> Any:
    """Return ``count`` columns [B, count] of ``mask`` [B, N]: those where it is true, in order, and then others."""
    num_columns = op.Slice(op.Shape(mask), [1], [2])
    # Unique, and exact in float32 up to 2**24 columns: N, N - 1, ... where true, and 0, -1, ... where not.
    falling = op.Neg(op.Cast(op.Range(0, op.Squeeze(num_columns, [0]), 1), to=FLOAT.dtype))
    keys = op.Where(mask, op.Add(falling, op.Cast(num_columns, to=FLOAT.dtype)), falling)
    _, columns = op.TopK(keys, count, axis=1)
    return columns


def topk(values: FLOAT, k: INT64, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[FLOAT, INT64]:
    """Compute ``torch.topk`` of the largest values in dimension 1 of 2, of equal values the lower column first."""
    if not largest or dim not in (1, -1):
        raise NotImplementedError("topk of the smallest values, or in another dimension")
    columns = _best_columns(values, op.Reshape(k, [1]))
    return op.GatherElements(values, columns, axis=1), columns


def _best_columns(scores: Any, count: Any) -> Any:
    """Return the columns [B, count] of the best scores, best first and of equal scores the lower column first."""
    best, _ = op.TopK(scores, count, axis=1)
    lowest = op.ReduceMin(best, [1])
    num_above = op.ReduceSum(op.Cast(op.Greater(best, lowest), to=FLOAT.dtype), [1])
    # Of the scores that equal the lowest of the best, those in the lowest columns fill what is left.
    tied = op.Equal(scores, lowest)
    number = op.CumSum(op.Cast(tied, to=FLOAT.dtype), op.Constant(value_int=1))
    fits = op.Not(op.Greater(number, op.Sub(op.Cast(count, to=FLOAT.dtype), num_above)))
    chosen = op.Or(op.Greater(scores, lowest), op.And(tied, fits))
    columns = _columns_where(chosen, count)
    return op.GatherElements(columns, _stable_order(op.GatherElements(scores, columns, axis=1), count), axis=1)


def _stable_order(scores: Any, count: Any) -> Any:
    """Return the order [B, count] of scores [B, count] by falling value, and of equal values by column."""
    own, other = op.Unsqueeze(scores, [2]), op.Unsqueeze(scores, [1])
    position = op.Range(0, op.Squeeze(count, [0]), 1)
    earlier = op.Less(op.Unsqueeze(position, [0]), op.Unsqueeze(position, [1]))
    before = op.Or(op.Greater(other, own), op.And(op.Equal(other, own), earlier))
    rank = op.ReduceSum(op.Cast(before, to=FLOAT.dtype), [2], keepdims=0)
    _, order = op.TopK(op.Neg(rank), count, axis=1)
    return order


def _ones_for(indices: Any) -> Any:
    return op.Expand(1.0, op.Slice(op.Shape(indices), [0], [1]))


def _top_rows(scores: Any, rows: Any, size: int) -> tuple[Any, Any]:
    """Return the rows of the ``size`` best scores, 0 in empty slots, and which slots are filled."""
    batch_size = op.Slice(op.Shape(scores), [0], [1])
    padding = op.Concat(batch_size, op.Constant(value_ints=[size]), axis=0)
    scores = op.Concat(scores, op.Expand(-np.inf, padding), axis=1)
    rows = op.Concat(rows, op.Expand(op.Constant(value_int=0), padding), axis=1)
    columns = _best_columns(scores, op.Constant(value_ints=[size]))
    filled = op.Greater(op.GatherElements(scores, columns, axis=1), -np.inf)
    rows = op.GatherElements(rows, columns, axis=1)
    return op.Where(filled, rows, op.Constant(value_int=0)), filled


def pyramid_roi_align(
    pyramid: Sequence[FLOAT],
    boxes: FLOAT,
    levels: INT64,
    strides: Sequence[int],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> FLOAT:
    """Compute the operator of :mod:`libradet.geometry.roi_align`: level by level, then in the order of the boxes."""
    flat, levels_flat = op.Reshape(boxes, [-1, 4]), op.Reshape(levels, [-1])
    boxes_per_image = op.Slice(op.Shape(levels), [1], [2])
    indices, pooled = [], []
    for level, (features, stride) in enumerate(zip(pyramid, strides, strict=True)):
        selected = op.NonZero(op.Equal(levels_flat, op.Constant(value_int=level)))
        rows = op.Squeeze(selected, [0])
        indices.append(op.Transpose(selected, perm=[1, 0]))
        pooled.append(
            op.RoiAlign(
                features,
                op.Gather(flat, rows, axis=0),
                op.Div(rows, boxes_per_image),
                coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
                output_height=size,
                output_width=size,
                sampling_ratio=sampling_ratio,
                spatial_scale=1 / stride,
            )
        )
    channels = op.Slice(op.Shape(pyramid[0]), [1], [2])
    shape = op.Concat(op.Shape(levels_flat), channels, op.Constant(value_ints=[size, size]), axis=0)
    return op.ScatterND(op.Expand(0.0, shape), op.Concat(*indices, axis=0), op.Concat(*pooled, axis=0))


TRANSLATIONS: dict[Callable, Callable] = {
    torch.ops.aten.topk.default: topk,
    torch.ops.libradet.batched_nms.default: batched_nms,
    torch.ops.libradet.pyramid_roi_align.default: pyramid_roi_align,
}
