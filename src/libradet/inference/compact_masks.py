"""Masks of large images as ``supervision.CompactMask``: each is stored inside its window, never as a whole image."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from hotcoco.mask import encode
from jaxtyping import Bool
from numpy import ndarray

from libradet.data.segmentations import encode_masks

if TYPE_CHECKING:
    import supervision

MaskWindow = tuple[slice, slice, Bool[ndarray, "_ _"]]
"""Rows and columns of an image, and the mask there."""

Masks: TypeAlias = "ndarray | supervision.CompactMask"
"""Masks of ``supervision.Detections``: an array [D, H, W], or compact ones of this shape."""


def has_compact_masks() -> bool:
    """Whether the installed version of supervision has them."""
    from libradet.utils.quiet_supervision import supervision as sv

    return hasattr(sv, "CompactMask")


def to_compact_masks(windows: Iterable[MaskWindow], height: int, width: int) -> "supervision.CompactMask":
    """Return the masks of an image of ``height`` x ``width`` pixels; an empty window is an empty mask."""
    from libradet.utils.quiet_supervision import supervision as sv

    # Of a window first, then moved: encoding in the whole image is slow where it is large.
    parts = [sv.CompactMask.from_dense(np.zeros((0, height, width), bool), np.zeros((0, 4)), (height, width))]
    for rows, columns, window in windows:
        pixels = window if window.size else np.zeros((1, 1), bool)
        # Both ends of supervision's boxes are inside.
        box = np.array([[0, 0, pixels.shape[1] - 1, pixels.shape[0] - 1]], np.float64)
        part = sv.CompactMask.from_dense(pixels[None], box, pixels.shape)
        parts.append(part.with_offset(columns.start, rows.start, (height, width)))
    return sv.CompactMask.merge(parts)


def reduce_masks(masks: "Masks", step: int) -> "Masks":
    """Return every ``step``-th pixel of masks, those of :func:`libradet.data.windows.reduced_image`."""
    if isinstance(masks, ndarray):
        return masks[:, ::step, ::step]

    def windows() -> Iterator[MaskWindow]:
        for row, (left, top) in enumerate(masks.offsets.tolist()):
            first_row, first_column = -(-top // step), -(-left // step)
            pixels = masks.crop(row)[first_row * step - top :: step, first_column * step - left :: step]
            rows, columns = (
                slice(first_row, first_row + len(pixels)),
                slice(first_column, first_column + pixels.shape[1]),
            )
            yield rows, columns, pixels

    height, width = (-(-side // step) for side in masks.image_shape)
    return to_compact_masks(windows(), height, width)


def encode_detection_masks(masks: "Masks") -> Iterator[dict[str, Any]]:
    """Yield each mask of ``supervision.Detections.mask`` as an RLE dictionary of the whole image."""
    if isinstance(masks, ndarray):
        yield from (encode(np.asfortranarray(mask)) for mask in masks)
        return
    height, width = masks.image_shape
    for row, (left, top) in enumerate(masks.offsets.tolist()):
        pixels = masks.crop(row)
        rows, columns = slice(top, top + pixels.shape[0]), slice(left, left + pixels.shape[1])
        yield from encode_masks([(rows, columns, pixels)], height, width)
