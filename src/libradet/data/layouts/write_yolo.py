"""Writes YOLO's layout: ``data.yaml``, ``images/SPLIT/`` and ``labels/SPLIT/``."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Float32, Float64
from numpy import ndarray

from libradet.data.checks.annotations import MIN_SIDE
from libradet.data.headers import read_header, turn
from libradet.data.layouts.naming import Names, own_name, stem, with_known_suffix
from libradet.data.layouts.parts import Part, merged_classes, shortest, text
from libradet.data.records import Dataset, ImageRecord
from libradet.data.segmentations import points


def names(split: str, dataset: Dataset, folders: Sequence[Path], known: Names) -> list[str]:
    """Names of images in ``images/SPLIT``; each has a label file of its own."""
    return [
        known.choose(
            (split, row), f"{split}/" + with_known_suffix(own_name(image.path, folders, dataset.split), image.path)
        ).removeprefix(f"{split}/")
        for row, image in enumerate(dataset.images)
    ]


def write(root: Path, parts: Sequence[Part], masks: bool) -> None:
    """Write all splits without their crowd regions, which YOLO has no mark for.

    Args:
        masks: polygons in place of boxes, where there are some.
    """
    classes = merged_classes(parts)
    numbers = {name: number for number, name in enumerate(classes)}
    for part in parts:
        own = [numbers[name] for name in part.dataset.class_names]
        for image, name in zip(part.dataset.images, part.names, strict=True):
            file = root / "labels" / part.split / f"{stem(name)}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{line}\n" for line in _lines(_upright(image), own, masks)), encoding="utf-8")
    config = {part.split: f"images/{part.split}" for part in parts} | {"names": dict(enumerate(classes))}
    described = yaml.safe_dump(config, allow_unicode=True, sort_keys=False)
    (root / "data.yaml").write_text(described, encoding="utf-8")


def polygon_of(image: ImageRecord, i: int | np.integer) -> Float64[ndarray, "V 2"] | None:
    """An object's outline in one ring, inside its image; None if it has none that could be written."""
    found = image.segmentations[i] if image.segmentations else None
    if not isinstance(found, list):
        return None
    ring = np.clip(_ring([points(polygon).reshape(-1, 2) for polygon in found]), 0, [image.width, image.height])
    return ring if (np.ptp(ring, axis=0) > MIN_SIDE).all() else None


def _lines(image: ImageRecord, numbers: list[int], masks: bool) -> list[str]:
    size = np.array([image.width, image.height], np.float64)
    boxes = _relative(image.boxes, size)
    lines = []
    for i in np.flatnonzero(~image.crowd):
        ring = polygon_of(image, i) if masks else None
        values = boxes[i] if ring is None else (ring / size).ravel().round(8)
        lines.append(" ".join([str(numbers[image.labels[i]]), *map(text, values)]))
    return lines


def _relative(boxes: Float32[ndarray, "N 4"], size: Float64[ndarray, " 2"]) -> Float64[ndarray, "N 4"]:
    """Center, width and height as fractions of the image."""

    def read(values: Float64[ndarray, "N 4"]) -> Float64[ndarray, "N 4"]:
        low, sides = (values[:, :2] - values[:, 2:] / 2) * size, values[:, 2:] * size
        return np.clip(np.concatenate([low, low + sides], 1), 0, np.tile(size, 2))

    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    return shortest(np.concatenate([(low + high) / 2 / size, (high - low) / size], 1), read, boxes)


def _ring(polygons: list[Float64[ndarray, "_ 2"]]) -> Float64[ndarray, "V 2"]:
    """Several polygons as one, with a way there and back, which encloses nothing, from the first to each other."""
    first, *others = polygons
    if not others:
        return first
    start = first[:1]
    return np.concatenate([first, start, *(part for p in others for part in (p, p[:1], start))])


def _upright(image: ImageRecord) -> ImageRecord:
    """With boxes and polygons as in the upright image, as there is no size in YOLO that could say otherwise."""
    if image.upright:
        return image
    width, height = image.width, image.height
    orientation = read_header(image.path).orientation
    corners = turn(image.boxes.reshape(-1, 2), width, height, orientation).reshape(-1, 2, 2)
    turned: list = [
        [turn(polygon.reshape(-1, 2), width, height, orientation).ravel() for polygon in found]
        if isinstance(found, list)
        else None
        for found in image.segmentations or []
    ]
    return replace(
        image,
        width=height,
        height=width,
        boxes=np.concatenate([corners.min(1), corners.max(1)], 1),
        segmentations=turned or None,
        upright=True,
    )
