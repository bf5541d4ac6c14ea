"""Segmentations inside a window of an image, without masks of the whole image, which may be large."""

from typing import Any

import numpy as np
from hotcoco import mask as rle
from jaxtyping import Float64, Int64
from numpy import ndarray

from libradet.data.segmentations import decode_rle_counts, rounded_polygon
from libradet.geometry.tiles import Window


def crop_segmentation(segmentation: Any, window: Window) -> Any:
    """Return polygons or an RLE dictionary in pixels of a window.

    Polygons are moved, not clipped: rasterization leaves out what lies outside.
    """
    if isinstance(segmentation, dict):
        return _crop_rle(segmentation, window)
    corner = np.array([window.left, window.top])
    return [(rounded_polygon(p).reshape(-1, 2) - corner).ravel().astype(np.float32) for p in segmentation]


def rasterized_extent(segmentation: Any, height: int, width: int) -> tuple[float, Float64[ndarray, " 4"]]:
    """Return the number of pixels of a segmentation in an image of this size, and the box (xyxy) around them."""
    if isinstance(segmentation, list):
        polygons = [rounded_polygon(polygon).tolist() for polygon in segmentation]
        segmentation = rle.merge(rle.frPyObjects(polygons, height, width))
    x, y, box_width, box_height = np.asarray(rle.to_bbox(segmentation), np.float64).ravel()
    return float(np.asarray(rle.area(segmentation)).item()), np.array([x, y, x + box_width, y + box_height])


def _crop_rle(segmentation: dict[str, Any], window: Window) -> dict[str, Any]:
    image_height = segmentation["size"][0]
    ends = np.cumsum(decode_rle_counts(segmentation["counts"]))
    ends = ends[: len(ends) // 2 * 2]
    # RLE counts column by column: only the columns of the window matter.
    limits = window.left * image_height, (window.left + window.width) * image_height
    starts, stops = ends[0::2].clip(*limits), ends[1::2].clip(*limits)
    columns, tops, bottoms = _split_at_columns(starts[starts < stops], stops[starts < stops], image_height)
    tops, bottoms = ((rows - window.top).clip(0, window.height) for rows in (tops, bottoms))
    inside = tops < bottoms
    first_pixels = (columns[inside] - window.left) * window.height
    counts = _run_counts(first_pixels + tops[inside], first_pixels + bottoms[inside], window.height * window.width)
    size = [window.height, window.width]
    return rle.frPyObjects({"size": size, "counts": counts.tolist()}, window.height, window.width)


def _split_at_columns(
    starts: Int64[ndarray, " R"], stops: Int64[ndarray, " R"], height: int
) -> tuple[Int64[ndarray, " N"], Int64[ndarray, " N"], Int64[ndarray, " N"]]:
    """Return column, first row and end of row of the parts of runs in each column."""
    first, last = starts // height, (stops - 1) // height
    lengths = last - first + 1
    position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    columns = np.repeat(first, lengths) + position
    tops = np.maximum(np.repeat(starts, lengths) - columns * height, 0)
    bottoms = np.minimum(np.repeat(stops, lengths) - columns * height, height)
    return columns, tops, bottoms


def _run_counts(starts: Int64[ndarray, " N"], stops: Int64[ndarray, " N"], size: int) -> Int64[ndarray, " R"]:
    """Return the lengths of alternating runs of background and foreground; runs that touch are one."""
    separate = starts[1:] != stops[:-1]
    bounds = np.stack(
        [starts[np.insert(separate, 0, True)[: len(starts)]], stops[np.append(separate, True)[: len(stops)]]], 1
    )
    return np.diff(bounds.ravel(), prepend=0, append=size)
