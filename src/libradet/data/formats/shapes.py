"""Boxes and masks of the shapes that annotation tools draw: rectangles, polygons, circles and bitmaps."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from hotcoco import mask as rle
from jaxtyping import Bool
from numpy import ndarray

from libradet.data.segmentations import MAX_COORD, rle_to_json

Points = Sequence[tuple[float, float]]

MAX_PIXELS = 400_000_000
"""Largest image whose bitmaps are read; larger sizes are errors in files, and would exhaust memory."""

_CIRCLE_POINTS = 64


class Shape(NamedTuple):
    """A shape in pixels.

    Attributes:
        box: xywh.
        polygons: flat x, y, ...; none for bitmaps and for shapes without an outline.
        bitmap: RLE dictionary of the size of the image.
    """

    box: list[float]
    polygons: list[list[float]]
    bitmap: dict[str, Any] | None = None

    def record(self) -> dict[str, Any]:
        """Return the fields of a COCO annotation."""
        segmentation = self.bitmap or self.polygons
        return {"bbox": self.box, "segmentation": segmentation} if segmentation else {"bbox": self.box}


def rectangle(points: Points) -> Shape:
    """Return the upright rectangle around points; its outline is not a mask."""
    return Shape(box_around(points), [])


def polygon(points: Points) -> Shape:
    """Return a polygon; one of less than three points has no mask."""
    return Shape(box_around(points), [flatten(points)] if len(points) >= 3 else [])


def circle(center: tuple[float, float], radius: float) -> Shape:
    """Return a circle, with a polygon of 64 points as its mask."""
    (x, y), angles = center, [2 * math.pi * i / _CIRCLE_POINTS for i in range(_CIRCLE_POINTS)]
    outline = [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]
    return Shape([x - radius, y - radius, 2 * radius, 2 * radius], [flatten(outline)])


def bitmap(pixels: Bool[ndarray, "h w"], left: int, top: int, width: int, height: int) -> Shape:
    """Return the mask of a part of an image, whose box is that of its pixels.

    Args:
        pixels: of the part; those outside of the image are left out.
        left, top: position of the part in the image.
        width, height: of the image.

    Raises:
        ValueError: the mask is empty, or the image too large.
    """
    if width * height > MAX_PIXELS:
        raise ValueError("the image is too large")
    mask = np.zeros((height, width), np.uint8, order="F")
    y1, x1, y2, x2 = max(top, 0), max(left, 0), min(top + pixels.shape[0], height), min(left + pixels.shape[1], width)
    if y2 > y1 and x2 > x1:
        mask[y1:y2, x1:x2] = pixels[y1 - top : y2 - top, x1 - left : x2 - left]
    if not mask.any():
        raise ValueError("the mask is empty")
    encoded = rle.encode(mask)
    return Shape([float(value) for value in rle.to_bbox(encoded)], [], rle_to_json(encoded))


def merge(shapes: Sequence[Shape], width: int, height: int) -> Shape:
    """Return the union of the parts of one object; it has a mask if all parts have one.

    Args:
        shapes: at least one.
        width, height: of the image.

    Raises:
        ValueError: a bitmap has another size, or a polygon beside it is far outside of any image.
    """
    if len(shapes) == 1:
        return shapes[0]
    corners = [corner for shape in shapes for corner in _corners(shape.box)]
    box = box_around(corners)
    if not all(shape.polygons or shape.bitmap for shape in shapes):
        return Shape(box, [])
    polygons = [ring for shape in shapes for ring in shape.polygons]
    bitmaps = [shape.bitmap for shape in shapes if shape.bitmap]
    if not bitmaps:
        return Shape(box, polygons)
    if any(mask["size"] != [height, width] for mask in bitmaps):
        raise ValueError("a mask has another size than its image")
    if not all(abs(value) < MAX_COORD for ring in polygons for value in ring):
        raise ValueError("a coordinate is no pixel of an image")
    encoded = [rle.frPyObjects(mask, height, width) for mask in bitmaps]
    encoded += rle.frPyObjects(polygons, height, width) if polygons else []
    return Shape(box, [], rle_to_json(rle.merge(encoded)))


def box_around(points: Points) -> list[float]:
    """Return the upright box (xywh) around points."""
    xs, ys = zip(*points, strict=True)
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def flatten(points: Points) -> list[float]:
    """Return points as x, y, x, y, ..."""
    return [value for point in points for value in point]


def _corners(box: Sequence[float]) -> Points:
    x, y, w, h = box
    return [(x, y), (x + w, y + h)]
