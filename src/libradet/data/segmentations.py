"""Segmentations: polygons and run lengths, kept small."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from hotcoco import mask as rle
from jaxtyping import Bool, Float32, Float64
from numpy import ndarray

from libradet.data.records import Dataset
from libradet.errors import UserError


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
    except (TypeError, ValueError):
        return None
    fit = [p for p in polygons if p.ndim == 1 and len(p) >= 6 and len(p) % 2 == 0 and np.isfinite(p.sum())]
    return fit or None


def _run_lengths(found: dict[str, Any], width: int, height: int) -> dict[str, Any] | None:
    counts = found.get("counts")
    if list(found.get("size") or ()) != [height, width] or not isinstance(counts, list | str | bytes):
        return None
    if isinstance(counts, list):
        try:
            total = sum(counts)
        except TypeError:
            return None
        if total != width * height or any(type(count) is not int or count < 0 for count in counts):
            return None
        return rle.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": counts}


def points(polygon: Float32[ndarray, " P"]) -> Float64[ndarray, " P"]:
    """A polygon's numbers as they were written: COCO's have two decimals, and rasterising rounds halves."""
    return np.round(polygon.astype(np.float64), 3)


def plain_segmentation(segmentation: Any) -> Any:
    """Polygons or run lengths as JSON can hold them."""
    if isinstance(segmentation, list):
        return [points(polygon).tolist() for polygon in segmentation]
    return plain_rle(segmentation)


def enclosing_box(segmentation: Any) -> list[float] | None:
    """xywh around a segmentation, for records that have no box."""
    if isinstance(segmentation, dict):
        height, width = [*(segmentation.get("size") or ()), 0, 0][:2]
        kept = _run_lengths(segmentation, width, height)
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
        (picture.path.name, int(picture.annotation_ids[i]))
        for picture in dataset.pictures
        for i in np.flatnonzero(~picture.crowd)
        if picture.segmentations is None or picture.segmentations[i] is None
    ]
    if not bare:
        return ""
    objects = sum(int((~picture.crowd).sum()) for picture in dataset.pictures)
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
    """Masks in pictures of ``height`` × ``width`` pixels as RLE dictionaries (``counts`` in bytes).

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
