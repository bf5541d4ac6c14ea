"""Rotated boxes: the upright box around one, and the attribute with which CVAT exports mark them.

CVAT's exports to COCO, Pascal VOC and Datumaro hold a rotated rectangle as the box that it had before its rotation, and
the angle among its attributes, 0 for other boxes.
"""

import math
from collections.abc import Sequence
from typing import Any

from libradet.utils.text import counted

_HALF_TURN = 180.0


def upright_box(box: Sequence[float], degrees: float) -> list[float]:
    """Return the upright box (xywh) around a box (xywh) that is rotated around its center.

    One without area is returned as it is, for validation to report.
    """
    x, y, width, height = box
    if min(width, height) <= 0:
        return list(box)
    cos, sin = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    w, h = width * cos + height * sin, width * sin + height * cos
    return [x + (width - w) / 2, y + (height - h) / 2, w, h]


def parse_rotation(value: Any) -> float:
    """Return an angle in degrees, in numbers or text; 0 for half turns, which change no box, and if it is none."""
    try:
        degrees = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return degrees % _HALF_TURN if math.isfinite(degrees) else 0.0


def rotation_of(attributes: Any) -> float:
    """Return the rotation in the attributes of a box; 0 unless they are CVAT's, which also say what is occluded."""
    is_cvat = isinstance(attributes, dict) and "occluded" in attributes
    return parse_rotation(attributes.get("rotation")) if is_cvat else 0.0


def describe_rotated(count: int) -> list[str]:
    """Return a note on the rotated boxes of a split; none without any."""
    one = "box is rotated (attribute 'rotation'): read as the upright box around it"
    many = "boxes are rotated (attribute 'rotation'): read as the upright boxes around them"
    return [counted(count, one, many)] if count else []
