"""Tiles of a dataset's images as image records of their own, to train on.

Tiles are those of tiled inference (:mod:`libradet.geometry.tiles`), objects those that SAHI's ``slice_coco`` keeps: an
object is clipped to each tile that it is in, and is background in those that hold less than a share of its area. A
detector so learns not to detect slivers, which NMS of several tiles would not merge with the whole object.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64
from numpy import ndarray

from libradet.data.records import Dataset, ImageRecord, Tile
from libradet.data.segmentation_windows import crop_segmentation, rasterized_extent
from libradet.geometry.tiles import MIN_AREA_RATIO, Tiles, Window, tile_windows


@dataclass(frozen=True)
class TileCounts:
    """Numbers of tiles and of objects of a dataset that was cut into tiles.

    Attributes:
        images: before.
        tiles: of all images, with those that were left out.
        empty: tiles without objects.
        clipped: parts of objects at borders of tiles that are kept.
        background: parts that are not, since they hold too small a share of the object.
        lost: objects that are in no tile.
    """

    images: int
    tiles: int
    empty: int
    clipped: int
    background: int
    lost: int


class _Cut(NamedTuple):
    """Objects of an image in a tile: which are kept, which are there in part, and their boxes and shares of area."""

    keep: Bool[ndarray, " G"]
    partial: Bool[ndarray, " G"]
    boxes: Float32[ndarray, "G 4"]
    shares: Float64[ndarray, " G"]


def tile_dataset(
    dataset: Dataset, tiles: Tiles, min_area_ratio: float = MIN_AREA_RATIO, keep_empty: bool = True
) -> tuple[Dataset, TileCounts]:
    """Return a dataset of tiles in the order of the images, row by row; an image that is one tile is unchanged.

    The area of an object is that of its segmentation, where the dataset has it in memory, else of its box. Boxes of
    clipped objects with a segmentation enclose what remains of it. Crowd regions are clipped, whatever remains.

    Args:
        min_area_ratio: share of an object's area from which on it is kept in a tile, if it has at least a pixel there.
        keep_empty: keep tiles without objects.
    """
    records: list[ImageRecord] = []
    counts: Counter[str] = Counter(images=len(dataset), tiles=0, empty=0, clipped=0, background=0, lost=0)
    for image in dataset.images:
        for record in _tile_image(image, tiles, min_area_ratio, counts):
            counts["tiles"] += 1
            counts["empty"] += not record.has_objects
            if keep_empty or record.has_objects:
                records.append(record)
    return replace(dataset, images=records), TileCounts(**counts)


def _tile_image(image: ImageRecord, tiles: Tiles, min_area_ratio: float, counts: Counter[str]) -> Iterator[ImageRecord]:
    windows = tile_windows(image.height, image.width, tiles)
    if len(windows) == 1:
        yield image
        return
    is_kept = image.crowd.copy()
    for window in windows:
        cut = _cut_objects(image, window, min_area_ratio)
        is_object = cut.partial & ~image.crowd
        counts["clipped"] += int((is_object & cut.keep).sum())
        counts["background"] += int((is_object & ~cut.keep).sum())
        is_kept |= cut.keep
        yield _record(image, window, cut)
    counts["lost"] += int((~is_kept).sum())


def _cut_objects(image: ImageRecord, window: Window, min_area_ratio: float) -> _Cut:
    corner = np.array([window.left, window.top] * 2, np.float32)
    moved = image.boxes - corner
    boxes = moved.clip(0, np.array([window.width, window.height] * 2, np.float32))
    overlaps = (boxes[:, 2:] > boxes[:, :2]).all(1)
    partial = overlaps & (boxes != moved).any(1)
    shares = _areas(boxes) / _areas(moved)
    segmentations = image.segmentations or [None] * len(boxes)
    for row in np.flatnonzero(partial).tolist():
        if segmentations[row] is not None:
            boxes[row], shares[row] = _cut_mask(image, segmentations[row], window, boxes[row])
    is_large = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1) & ((shares >= min_area_ratio) | image.crowd)
    return _Cut(overlaps & (~partial | is_large), partial, boxes, shares)


def _cut_mask(
    image: ImageRecord, segmentation: list[ndarray] | dict[str, Any], window: Window, box: Float32[ndarray, " 4"]
) -> tuple[Float32[ndarray, " 4"], float]:
    """Return the box of an object in a tile, around its mask there, and the share of its mask's area."""
    part, enclosing = rasterized_extent(crop_segmentation(segmentation, window), window.height, window.width)
    whole, _ = rasterized_extent(*_own_window(segmentation, image))
    enclosing = enclosing.astype(np.float32)
    tight = np.concatenate([np.maximum(box[:2], enclosing[:2]), np.minimum(box[2:], enclosing[2:])])
    return tight, part / max(whole, 1.0)


def _own_window(segmentation: list[ndarray] | dict[str, Any], image: ImageRecord) -> tuple[Any, int, int]:
    """Return a segmentation in the window around it, and height and width of that window."""
    if isinstance(segmentation, dict):
        return segmentation, image.height, image.width
    corners = np.concatenate(segmentation).reshape(-1, 2).clip(0, [image.width, image.height])
    (left, top), (right, bottom) = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
    window = Window(int(top), int(left), max(int(bottom - top), 1), max(int(right - left), 1))
    return crop_segmentation(segmentation, window), window.height, window.width


def _record(image: ImageRecord, window: Window, cut: _Cut) -> ImageRecord:
    keep, segmentations = cut.keep, None
    if image.segmentations is not None:
        kept = (image.segmentations[row] for row in np.flatnonzero(keep).tolist())
        segmentations = [None if value is None else crop_segmentation(value, window) for value in kept]
    return replace(
        image,
        width=window.width,
        height=window.height,
        boxes=cut.boxes[keep],
        labels=image.labels[keep],
        crowd=image.crowd[keep],
        area=(image.area * np.where(cut.partial, cut.shares, 1.0))[keep],
        annotation_ids=image.annotation_ids[keep],
        segmentations=segmentations,
        records=None,
        tile=Tile(window, image.height, image.width),
    )


def _areas(boxes: Float32[ndarray, "G 4"]) -> Float64[ndarray, " G"]:
    return (boxes[:, 2:] - boxes[:, :2]).astype(np.float64).prod(1)
