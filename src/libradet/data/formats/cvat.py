"""The XML format of CVAT, "CVAT for images 1.1": ``annotations.xml`` with all images, and their files in ``images/``.

Rotated boxes, polygons and ellipses become the boxes that enclose them; polygons and bitmaps are also kept as masks.
Datumaro writes a file of this format for each split, ``train.xml``.
"""

import math
import xml.etree.ElementTree as ET
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from libradet.data.formats.reading import Splits, list_files, read_xml, sort_splits
from libradet.data.formats.rotation import upright_box
from libradet.data.formats.shapes import MAX_PIXELS, bitmap, polygon
from libradet.data.records import RawAnnotations, normalize_id
from libradet.errors import UserError

FILE = "annotations.xml"

_OTHER_EXPORTS = "export it as 'CVAT for images 1.1' or 'COCO 1.0'"
_HEAD_BYTES = 1000


def list_splits(root: Path) -> Splits:
    """Return the splits, which are the subsets of a project's images, or files of other names.

    Raises:
        UserError: a file is damaged, without labels, or in CVAT's format for video.
    """
    if is_cvat_file(root / FILE):
        return _list_subsets(root / FILE)
    files = list_files(root, "*.xml")
    splits: Splits = {}
    for file in files if files and is_cvat_file(files[0]) else []:
        if is_cvat_file(file):
            subsets = _list_subsets(file)
            splits |= {file.stem: subsets["all"]} if list(subsets) == ["all"] else subsets
    if list(splits) == ["default"]:
        return {"all": splits["default"]}
    return {name: splits[name] for name in sort_splits(splits)}


def _list_subsets(file: Path) -> Splits:
    tree = read_xml(file)
    labels = _labels(tree)
    if tree.find("track") is not None:
        raise UserError(f"{file}: in CVAT's format for video, with tracks, which is not supported; {_OTHER_EXPORTS}.")
    if not labels:
        raise UserError(
            f"{file}: a CVAT file without labels in <meta>, so classes are unknown; {_OTHER_EXPORTS} again."
        )
    by_split: dict[str, list[ET.Element]] = {}
    for image in tree.findall("image"):
        by_split.setdefault(image.get("subset") or "all", []).append(image)
    if not by_split:
        raise UserError(f"{file}: a CVAT file without an <image>; {_OTHER_EXPORTS} again.")
    if len(by_split) == 1 and "default" in {name.lower() for name in by_split}:
        by_split = {"all": next(iter(by_split.values()))}
    return {name: partial(_read_split, file, name, images, labels) for name, images in by_split.items()}


def is_cvat_file(file: Path) -> bool:
    """Return whether a file seems to be CVAT's, by its first element."""
    try:
        with file.open("rb") as opened:
            return b"<annotations" in opened.read(_HEAD_BYTES)
    except OSError:
        return False


def _labels(tree: ET.Element) -> list[str]:
    """Return the labels of a project, task or job in their order, without those of the points of a skeleton."""
    labels = [label for label in tree.findall("meta/*/labels/label") if not label.findtext("parent")]
    return list(dict.fromkeys(name for label in labels if (name := (label.findtext("name") or "").strip())))


def _read_split(file: Path, split: str, images: list[ET.Element], labels: list[str]) -> RawAnnotations:
    numbers = {name: i for i, name in enumerate(labels, start=1)}
    root, names = file.parent, dict.fromkeys([split, file.stem, "default"])
    folders = [*(root / "images" / name for name in names), root / "images", root]
    existing = [folder for folder in folders if folder.is_dir()]
    categories = [{"id": i, "name": name} for name, i in numbers.items()]
    raw = RawAnnotations(root, split, file, existing, [], [], categories)
    kinds: Counter[str] = Counter()
    for image_id, image in zip(_image_ids(images), images, strict=True):
        size = {"width": image.get("width"), "height": image.get("height")}
        raw.images.append({"id": image_id, "file_name": image.get("name"), **size})
        for order, shape in enumerate(image, start=1):
            where = f"{file.name}, image {image.get('name')}, {shape.tag} {order}"
            kinds[shape.tag] += 1
            if shape.tag in _READERS:
                record = _annotation(image, shape, where, file, numbers)
                raw.annotations.append({"id": len(raw.annotations) + 1, "image_id": image_id} | record)
    omitted = {kind: number for kind, number in kinds.items() if kind not in _READERS}
    raw.notes += [f"{number} {kind} elements have no box: not read" for kind, number in omitted.items()]
    return raw


def _image_ids(images: list[ET.Element]) -> list[int]:
    """Return CVAT's own ids if they are unique numbers; else those of the order."""
    ids = [normalize_id(image.get("id")) for image in images]
    numbers = [i for i in ids if isinstance(i, int)]
    return numbers if len(set(numbers)) == len(images) else list(range(1, len(images) + 1))


def _annotation(
    image: ET.Element, shape: ET.Element, where: str, file: Path, numbers: dict[str, int]
) -> dict[str, Any]:
    label = (shape.get("label") or "").strip()
    if label not in numbers:
        raise UserError(f"{file}: {where[len(file.name) + 2 :]}: label {label!r} is not in <meta>; add it there.")
    try:
        geometry = _READERS[shape.tag](shape, image)
    except (ValueError, OverflowError):
        geometry = {"bbox": None}  # validation counts and names it
    return {"where": where, "category_id": numbers[label], "iscrowd": int(_is_crowd(shape))} | geometry


def _is_crowd(shape: ET.Element) -> bool:
    flags = [node for node in shape.iter("attribute") if node.get("name") in ("is_crowd", "iscrowd")]
    return any((node.text or "").strip().lower() in ("1", "true") for node in flags)


def _numbers(shape: ET.Element, *names: str) -> list[float]:
    return [float(shape.get(name) or "") for name in names]


def _read_box(shape: ET.Element, image: ET.Element) -> dict[str, Any]:
    x1, y1, x2, y2 = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
    box, degrees = [x1, y1, x2 - x1, y2 - y1], float(shape.get("rotation") or 0)
    return {"bbox": upright_box(box, degrees) if degrees else box}


def _read_ellipse(shape: ET.Element, image: ET.Element) -> dict[str, Any]:
    x, y, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
    angle = math.radians(float(shape.get("rotation") or 0))
    cos, sin = math.cos(angle), math.sin(angle)
    half_width, half_height = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return {"bbox": [x - half_width, y - half_height, 2 * half_width, 2 * half_height]}


def _read_polygon(shape: ET.Element, image: ET.Element) -> dict[str, Any]:
    points = [point.split(",") for point in (shape.get("points") or "").split(";")]
    return polygon([(float(x), float(y)) for x, y in points]).record()


def _read_mask(shape: ET.Element, image: ET.Element) -> dict[str, Any]:
    """Decode run lengths over the rows of a part of the image; the first run is background."""
    left, top, width, height = (int(value) for value in _numbers(shape, "left", "top", "width", "height"))
    runs = np.array((shape.get("rle") or "").split(","), np.int64)
    is_valid = runs.min() >= 0 and runs.max() <= MAX_PIXELS and runs.sum() == width * height
    if not is_valid or not 0 < width * height <= MAX_PIXELS:
        raise ValueError("the run lengths are not those of the mask's size")
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    image_width, image_height = (int(value) for value in _numbers(image, "width", "height"))
    return bitmap(pixels, left, top, image_width, image_height).record()


_READERS = {"box": _read_box, "ellipse": _read_ellipse, "polygon": _read_polygon, "mask": _read_mask}
