"""Polygons and run-length encodings (RLE): parsing, conversion to JSON, and encoding of masks."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from hotcoco import mask as rle
from jaxtyping import Bool, Float32, Float64, Int64
from numpy import ndarray

from libradet.data.records import Dataset
from libradet.errors import UserError

MAX_COORD = 1e6
"""Largest coordinate of a polygon, in pixels: the time to rasterize one grows with its length."""

MAX_CHARS_PER_COUNT = 7
"""Characters of one compressed RLE count; more would not fit 35 bits."""


def parse_segmentation(record: dict[str, Any], width: int, height: int, normalized: bool, invalid: list[str]) -> Any:
    """Return a record's segmentation as a list of float32 polygons or an RLE dictionary, else None.

    Args:
        record: the annotation.
        width, height: of the image in pixels.
        normalized: polygons are fractions of the image; they are scaled to pixels.
        invalid: collects the names of annotations whose segmentation cannot be used.
    """
    segmentation = record.get("segmentation")
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        parsed = _parse_rle(segmentation, width, height)
    else:
        parsed = _parse_polygons(segmentation)
    if parsed is None:
        invalid.append(str(record.get("where") or f"annotation {record.get('id')}"))
    elif normalized and isinstance(parsed, list):
        scale = np.array([width, height], np.float32)
        parsed = [(polygon.reshape(-1, 2) * scale).ravel() for polygon in parsed]
    return parsed


def _parse_polygons(segmentation: Any) -> list[ndarray] | None:
    try:
        polygons = [np.asarray(polygon, np.float32) for polygon in segmentation]
    except (TypeError, ValueError, OverflowError):
        return None
    valid = [p for p in polygons if p.ndim == 1 and len(p) >= 6 and len(p) % 2 == 0 and np.abs(p).max() < MAX_COORD]
    return valid or None


def _parse_rle(segmentation: dict[str, Any], width: int, height: int) -> dict[str, Any] | None:
    counts = segmentation.get("counts")
    if segmentation.get("size") != [height, width] or not isinstance(counts, list | str | bytes):
        return None
    if isinstance(counts, list):
        if any(type(count) is not int or count < 0 for count in counts) or sum(counts) != width * height:
            return None
        return rle.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    covered = decode_rle_counts(counts).sum()
    return {"size": [height, width], "counts": counts} if 0 < covered <= width * height else None


def decode_rle_counts(counts: str | bytes) -> Int64[ndarray, " R"]:
    """Return the run lengths in COCO's compressed text, empty if the text is malformed.

    Decoders trust the text, so it is checked here first. Each character holds five bits from 48 on, lowest first; the
    sixth bit says that more follow, and the highest bit of the last character is the sign. From the third number on,
    numbers are differences to the one before the last.
    """
    text = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
    chars = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    is_last = (chars & 32) == 0
    if not len(chars) or chars.min() < 0 or chars.max() > 63 or not is_last[-1]:
        return np.zeros(0, np.int64)
    starts = np.concatenate([[0], np.flatnonzero(is_last)[:-1] + 1])
    lengths = np.diff(np.append(starts, len(chars)))
    if lengths.max() > MAX_CHARS_PER_COUNT:
        return np.zeros(0, np.int64)
    shifts = 5 * (np.arange(len(chars)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((chars & 31) << shifts, starts) - (((chars[is_last] & 16) << 1) << 5 * (lengths - 1))
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return runs if runs.min() >= 0 else np.zeros(0, np.int64)


def rounded_polygon(polygon: Float32[ndarray, " P"]) -> Float64[ndarray, " P"]:
    """Return a polygon's numbers as written in the file: COCO's have two decimals, and rasterization rounds halves."""
    return np.round(polygon.astype(np.float64), 3)


def segmentation_to_json(segmentation: Any) -> Any:
    """Return polygons or an RLE dictionary as plain JSON values."""
    if isinstance(segmentation, list):
        return [rounded_polygon(polygon).tolist() for polygon in segmentation]
    return rle_to_json(segmentation)


def enclosing_box(segmentation: Any) -> list[float] | None:
    """Return the box (xywh) around a segmentation, for records that have no box."""
    if isinstance(segmentation, dict):
        size = segmentation.get("size")
        if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
            return None
        parsed = _parse_rle(segmentation, size[1], size[0])
        return None if parsed is None else [float(v) for v in rle.to_bbox(parsed)]
    polygons = _parse_polygons(segmentation) if isinstance(segmentation, list) else None
    if polygons is None:
        return None
    corners = rounded_polygon(np.concatenate(polygons)).reshape(-1, 2)
    low, high = corners.min(0), corners.max(0)
    return [*low.tolist(), *(high - low).tolist()]


def describe_missing_masks(dataset: Dataset) -> str:
    """Return how many objects (crowd regions aside) have no segmentation, with an example; empty if all have one."""
    missing = [
        (image.path.name, image.annotation_ids[i])
        for image in dataset.images
        for i in np.flatnonzero(~image.crowd)
        if image.segmentations is None or image.segmentations[i] is None
    ]
    if not missing:
        return ""
    num_objects = sum(int((~image.crowd).sum()) for image in dataset.images)
    name, annotation_id = missing[0]
    return (
        f"{len(missing)} of {num_objects} objects have no segmentation (for example annotation {annotation_id} of "
        f"{name})"
    )


def require_masks(dataset: Dataset) -> None:
    """Raise UserError if an object has no segmentation."""
    if missing := describe_missing_masks(dataset):
        raise UserError(
            f"{dataset.root}, {dataset.split}: {missing}, and a model with masks needs one for every object. "
            "Add them, or use a model without masks."
        )


def encode_masks(
    windows: Iterable[tuple[slice, slice, Bool[ndarray, "_ _"]]], height: int, width: int
) -> list[dict[str, Any]]:
    """Encode masks in images of ``height`` x ``width`` pixels as RLE dictionaries (``counts`` in bytes).

    Args:
        windows: rows, columns, and the pixels there, as :func:`libradet.geometry.masks.paste_masks` yields them;
            pixels outside are background.
        height, width: of the image in pixels.
    """
    return [_encode_window(rows, columns, pixels, height, width) for rows, columns, pixels in windows]


def _encode_window(
    rows: slice, columns: slice, pixels: Bool[ndarray, "_ _"], height: int, width: int
) -> dict[str, Any]:
    """Encode the pixels of a window without an array of the whole image, which may be large."""
    across, down = np.nonzero(pixels.T)
    # RLE counts column by column.
    positions = (columns.start + across) * height + rows.start + down
    is_first = np.diff(positions, prepend=-2) != 1
    is_last = np.diff(positions, append=height * width + 1) != 1
    bounds = np.stack([positions[is_first], positions[is_last] + 1], 1).ravel()
    counts = np.diff(bounds, prepend=0, append=height * width)
    return rle.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)


def rle_to_json(encoded: dict[str, Any]) -> dict[str, Any]:
    """Return an RLE dictionary whose ``counts`` are text, as JSON needs."""
    counts = encoded["counts"]
    return encoded | {"counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}
