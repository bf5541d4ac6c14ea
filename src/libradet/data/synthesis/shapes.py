"""Objects of synthetic images: outlines as signed distances, and surfaces as color patterns.

Coordinates (u, v) are the object's own: its outline lies about 1 from the center, v points down.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

Plane = Float[ndarray, "h w"]
Outline = Callable[[Plane, Plane], Plane]
Surface = Callable[[Plane, Plane], Plane]


class ShapeKind(NamedTuple):
    """A class of objects.

    Attributes:
        name: as in ``categories``.
        outline: signed distance, negative inside, in units of the object's radius.
        colors: two RGB colors, 0-255.
        surface: share of the second color at each point, 0..1.
    """

    name: str
    outline: Outline
    colors: tuple[tuple[int, int, int], tuple[int, int, int]]
    surface: Surface


def disc(u: Plane, v: Plane) -> Plane:
    """A circle."""
    return np.hypot(u, v) - 1


def ring(u: Plane, v: Plane) -> Plane:
    """A circle with a hole."""
    return np.abs(np.hypot(u, v) - 0.74) - 0.26


def square(u: Plane, v: Plane) -> Plane:
    """A square with slightly rounded corners."""
    return np.hypot(np.maximum(np.abs(u) - 0.72, 0), np.maximum(np.abs(v) - 0.72, 0)) - 0.12


def plus(u: Plane, v: Plane) -> Plane:
    """Two crossed bars."""
    long, wide = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
    return np.maximum(long - 1, wide - 0.36)


def triangle(u: Plane, v: Plane) -> Plane:
    """A triangle, point up."""
    return np.maximum(v - 0.62, 0.866 * np.abs(u) - 0.5 * (v + 1.0))


def star(u: Plane, v: Plane) -> Plane:
    """Five points."""
    angle = np.arctan2(u, -v)
    sector = np.abs((angle + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    x, y = np.hypot(u, v) * np.sin(sector), np.hypot(u, v) * np.cos(sector)
    # The edge from a point (0, 1) to the notch at 36 degrees, 0.5 from the center.
    notch = 0.5 * np.sin(np.pi / 5), 0.5 * np.cos(np.pi / 5)
    along = np.hypot(notch[0], notch[1] - 1)
    return ((1 - notch[1]) * x + notch[0] * (y - 1)) / along


def lens(u: Plane, v: Plane) -> Plane:
    """A leaf: two arcs that meet in two points."""
    return np.maximum(np.hypot(u - 0.75, v), np.hypot(u + 0.75, v)) - 1.25


def crescent(u: Plane, v: Plane) -> Plane:
    """A moon."""
    return np.maximum(np.hypot(u, v) - 1, 0.75 - np.hypot(u - 0.5, v))


def hexagon(u: Plane, v: Plane) -> Plane:
    """Six sides."""
    return np.maximum(np.abs(u) * 0.866 + np.abs(v) * 0.5, np.abs(v)) - 0.88


def hollow(outline: Outline) -> Outline:
    """Return the outline of a shape without its interior."""
    return lambda u, v: np.abs(outline(u, v) + 0.08) - 0.08


def stripes(u: Plane, v: Plane) -> Plane:
    """Bands across."""
    return _soft(np.sin(v * 9.5))


def rays(u: Plane, v: Plane) -> Plane:
    """Sectors around the center."""
    return _soft(np.sin(np.arctan2(v, u) * 6))


def dots(u: Plane, v: Plane) -> Plane:
    """Spots on a grid."""
    return _soft(np.cos(u * 8) + np.cos(v * 8) - 0.7)


def checks(u: Plane, v: Plane) -> Plane:
    """A chess board."""
    return _soft(np.sin(u * 6.3) * np.sin(v * 6.3) * 3)


def veins(u: Plane, v: Plane) -> Plane:
    """A stem with ribs."""
    ribs = np.abs(np.sin((v + np.abs(u) * 0.8) * 7)) - 0.3
    return 1 - _soft(np.minimum(np.abs(u) * 12 - 0.8, ribs * 2))


def planks(u: Plane, v: Plane) -> Plane:
    """A frame with a diagonal, as on a crate."""
    frame = 0.6 - np.maximum(np.abs(u), np.abs(v))
    return 1 - _soft(np.minimum(frame, np.abs(u - v) - 0.18) * 8)


def grain(u: Plane, v: Plane) -> Plane:
    """Nearly plain, slowly changing."""
    return 0.5 + 0.5 * np.sin(2 * u + 1.3 * v)


def _soft(wave: Plane) -> Plane:
    """Return a wave as 0 and 1 with soft edges."""
    return np.clip(0.5 + 1.5 * wave, 0, 1)


KINDS = (
    ShapeKind("ball", disc, ((226, 62, 44), (250, 226, 200)), stripes),
    ShapeKind("crate", square, ((196, 140, 74), (112, 70, 30)), planks),
    ShapeKind("leaf", lens, ((62, 158, 58), (168, 222, 110)), veins),
    ShapeKind("star", star, ((252, 206, 40), (228, 146, 20)), rays),
    ShapeKind("ring", ring, ((44, 104, 220), (150, 200, 255)), rays),
    ShapeKind("cone", triangle, ((158, 66, 190), (240, 200, 250)), stripes),
    ShapeKind("cross", plus, ((236, 236, 240), (190, 40, 70)), checks),
    ShapeKind("moon", crescent, ((30, 170, 178), (176, 240, 236)), dots),
)
"""The classes, in this order; they differ in outline, color and surface."""
