"""Segmentations: polygons and run lengths, kept small."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from hotcoco import mask as rle
from jaxtyping import Bool, Float32, Float64, Int64
from numpy import ndarray

from libradet.data.records import Dataset
from libradet.errors import UserError

FARTHEST = 1e6
"""Pixels from an image's corner within which a polygon has to lie: drawing one takes time with its length."""


def compact(record: dict[str, Any], width: int, height: int, relative: bool, unfit: list[str]) -> Any:
    """A record's segmentation as a list of float32 polygons or an RLE dictionary, else None.

    One that cannot be used is named in ``unfit``. ``relative`` polygons are brought to pixels.
    """
    found = record.get("segmentation")
    if not found:
        return None
    kept = _run_lengths(found, width, height) if isinstance(found, dict) else _polygons(found)
    if kept is None:
        unfit.append(str(record.get("where") or f"annotation {record.get('id')}"))
    elif relative and isinstance(kept, list):
        scale = np.array([width, height], np.float32)
        kept = [(polygon.reshape(-1, 2) * scale).ravel() for polygon in kept]
    return kept


def _polygons(found: Any) -> list[ndarray] | None:
    try:
        polygons = [np.asarray(polygon, np.float32) for polygon in found]
    except (TypeError, ValueError, OverflowError):
        return None
    fit = [p for p in polygons if p.ndim == 1 and len(p) >= 6 and len(p) % 2 == 0 and np.abs(p).max() < FARTHEST]
    return fit or None


def _run_lengths(found: dict[str, Any], width: int, height: int) -> dict[str, Any] | None:
    counts = found.get("counts")
    if found.get("size") != [height, width] or not isinstance(counts, list | str | bytes):
        return None
    if isinstance(counts, list):
        if any(type(count) is not int or count < 0 for count in counts) or sum(counts) != width * height:
            return None
        return rle.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": counts} if 0 < _told(counts).sum() <= width * height else None


def _told(counts: str | bytes) -> Int64[ndarray, " R"]:
    """The run lengths in COCO's compressed text, empty if it is none: a decoder believes whatever stands there.

    Five bits a letter from 48 on, lowest first, the sixth bit says that more follow, the last one's highest is the
    sign; from the third on, numbers are differences to the one before the last.
    """
    text = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    letters = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    last = (letters & 32) == 0
    if not len(letters) or letters.min() < 0 or letters.max() > 63 or not last[-1]:
        return np.zeros(0, np.int64)
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    lengths = np.diff(np.append(starts, len(letters)))
    if lengths.max() > 7:
        return np.zeros(0, np.int64)
    shifts = 5 * (np.arange(len(letters)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((letters & 31) << shifts, starts) - (((letters[last] & 16) << 1) << 5 * (lengths - 1))
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return runs if runs.min() >= 0 else np.zeros(0, np.int64)


def points(polygon: Float32[ndarray, " P"]) -> Float64[ndarray, " P"]:
    """A polygon's numbers as they were written: COCO's have two decimals, and rasterizing rounds halves."""
    return np.round(polygon.astype(np.float64), 3)


def plain_segmentation(segmentation: Any) -> Any:
    """Polygons or run lengths as JSON can hold them."""
    if isinstance(segmentation, list):
        return [points(polygon).tolist() for polygon in segmentation]
    return plain_rle(segmentation)


def enclosing_box(segmentation: Any) -> list[float] | None:
    """xywh around a segmentation, for records that have no box."""
    if isinstance(segmentation, dict):
        size = segmentation.get("size")
        if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
            return None
        kept = _run_lengths(segmentation, size[1], size[0])
        return None if kept is None else [float(v) for v in rle.to_bbox(kept)]
    polygons = _polygons(segmentation) if isinstance(segmentation, list) else None
    if polygons is None:
        return None
    corners = points(np.concatenate(polygons)).reshape(-1, 2)
    low, high = corners.min(0), corners.max(0)
    return [*low.tolist(), *(high - low).tolist()]


def describe_missing(dataset: Dataset) -> str:
    """How many objects (crowd regions aside) have no segmentation, and which is one; empty if all have."""
    bare = [
        (image.path.name, int(image.annotation_ids[i]))
        for image in dataset.images
        for i in np.flatnonzero(~image.crowd)
        if image.segmentations is None or image.segmentations[i] is None
    ]
    if not bare:
        return ""
    objects = sum(int((~image.crowd).sum()) for image in dataset.images)
    name, number = bare[0]
    return f"{len(bare)} of {objects} objects have no segmentation (annotation {number} of {name} is one)"


def require_masks(dataset: Dataset) -> None:
    """Raises UserError if an object has no segmentation."""
    if missing := describe_missing(dataset):
        raise UserError(
            f"{dataset.root}, {dataset.split}: {missing}: a model with masks needs one for every object. "
            "Add them, or take a model without masks."
        )


def encode_masks(
    windows: Iterable[tuple[slice, slice, Bool[ndarray, "_ _"]]], height: int, width: int
) -> list[dict[str, Any]]:
    """Masks in images of ``height`` x ``width`` pixels as RLE dictionaries (``counts`` in bytes).

    Args:
        windows: rows, columns, and the pixels there, as :func:`libradet.geometry.masks.paste_masks` yields them;
            outside there is nothing.
    """
    encoded = []
    for rows, columns, pixels in windows:
        whole = np.zeros((height, width), dtype=bool, order="F")
        whole[rows, columns] = pixels
        encoded.append(rle.encode(whole))
    return encoded


def plain_rle(encoded: dict[str, Any]) -> dict[str, Any]:
    """An RLE dictionary that JSON can hold."""
    counts = encoded["counts"]
    return encoded | {"counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}
