"""The package's own operators in terms of ONNX's (opset 18)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnxscript import BOOL, FLOAT, INT64
from onnxscript.onnx_opset import opset18

from libradet.export.overlaps import single_threshold

OPSET = 18

# Its annotations are for values, where numbers and lists of them do as well.
op: Any = opset18

_LOWEST = float(np.finfo(np.float32).min)


def suppress(
    boxes: FLOAT, scores: FLOAT, groups: INT64, valid: BOOL, threshold: float, size: int
) -> tuple[INT64, BOOL]:
    """As :func:`libradet.geometry.suppression.suppress`.

    Equal scores: TopK and NonMaxSuppression take the lower row first, as we do.
    """
    rows, boxes, scores, groups, valid = _valid_first(boxes, scores, groups, valid)
    # Scores [B, groups, N]: each group has its own, and looks at the same boxes.
    names = op.Range(0, op.Add(op.ReduceMax(groups, keepdims=0), 1), 1)
    mine = op.Equal(op.Unsqueeze(groups, [1]), op.Unsqueeze(names, [0, 2]))
    own = op.Where(op.And(mine, op.Unsqueeze(valid, [1])), op.Unsqueeze(scores, [1]), -np.inf)
    most, least = op.Constant(value_ints=[size]), op.Constant(value_floats=[_LOWEST])
    overlap = op.Constant(value_floats=[single_threshold(threshold)])
    selected = op.NonMaxSuppression(boxes, own, most, overlap, least)
    places = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
    kept = op.ScatterND(op.CastLike(op.Expand(0.0, op.Shape(scores)), scores), places, _ones_for(places))
    return _best(op.Where(op.Greater(kept, 0.5), scores, -np.inf), rows, size)


def _valid_first(boxes: Any, scores: Any, groups: Any, valid: Any) -> tuple[Any, ...]:
    """Candidates that are valid, in their order, as many columns as the fullest image has; and their rows."""
    flags = op.Cast(valid, to=FLOAT.dtype)
    most = op.Cast(op.ReduceMax(op.ReduceSum(flags, [1], keepdims=0), keepdims=0), to=INT64.dtype)
    most = op.Reshape(op.Max(most, op.Constant(value_int=1)), [1])
    flags, rows = op.TopK(flags, most, axis=1)
    wide = op.Expand(op.Unsqueeze(rows, [2]), op.Constant(value_ints=[1, 1, 4]))
    taken = op.GatherElements(boxes, wide, axis=1)
    scores, groups = (op.GatherElements(t, rows, axis=1) for t in (scores, groups))
    return rows, taken, scores, groups, op.Greater(flags, 0.5)


def _ones_for(places: Any) -> Any:
    return op.Expand(1.0, op.Slice(op.Shape(places), [0], [1]))


def _best(scores: Any, rows: Any, size: int) -> tuple[Any, Any]:
    """Rows of the best, and which of them are there."""
    count = op.Slice(op.Shape(scores), [0], [1])
    more = op.Concat(count, op.Constant(value_ints=[size]), axis=0)
    scores = op.Concat(scores, op.Expand(-np.inf, more), axis=1)
    rows = op.Concat(rows, op.Expand(op.Constant(value_int=0), more), axis=1)
    best, at = op.TopK(scores, op.Constant(value_ints=[size]), axis=1)
    filled = op.Greater(best, -np.inf)
    rows = op.GatherElements(rows, at, axis=1)
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
    """As the operator in :mod:`libradet.geometry.roi_align`: level by level, put back into the order of the boxes."""
    flat, levels_flat = op.Reshape(boxes, [-1, 4]), op.Reshape(levels, [-1])
    per_image = op.Slice(op.Shape(levels), [1], [2])
    places, pooled = [], []
    for level, (features, stride) in enumerate(zip(pyramid, strides, strict=True)):
        own = op.NonZero(op.Equal(levels_flat, op.Constant(value_int=level)))
        rows = op.Squeeze(own, [0])
        places.append(op.Transpose(own, perm=[1, 0]))
        pooled.append(
            op.RoiAlign(
                features,
                op.Gather(flat, rows, axis=0),
                op.Div(rows, per_image),
                coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
                output_height=size,
                output_width=size,
                sampling_ratio=sampling_ratio,
                spatial_scale=1 / stride,
            )
        )
    channels = op.Slice(op.Shape(pyramid[0]), [1], [2])
    shape = op.Concat(op.Shape(levels_flat), channels, op.Constant(value_ints=[size, size]), axis=0)
    return op.ScatterND(op.Expand(0.0, shape), op.Concat(*places, axis=0), op.Concat(*pooled, axis=0))


TRANSLATIONS: dict[Callable, Callable] = {
    torch.ops.libradet.suppress.default: suppress,
    torch.ops.libradet.pyramid_roi_align.default: pyramid_roi_align,
}
