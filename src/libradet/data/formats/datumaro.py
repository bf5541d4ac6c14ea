"""Datumaro's own JSON format: ``annotations/SUBSET.json`` and ``images/SUBSET/``.

A box and the polygons and masks of its label in the same ``group`` are one object, and so are those without a box.
Boxes of one group remain different objects.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from libradet.data.formats.reading import Splits, list_files, read_json, sort_splits
from libradet.data.formats.rotation import describe_rotated, rotation_of, upright_box
from libradet.data.formats.shapes import Shape, merge, polygon, rectangle
from libradet.data.image_headers import IMAGE_SUFFIXES
from libradet.data.records import RawAnnotations, normalize_id
from libradet.data.segmentations import enclosing_box
from libradet.errors import UserError
from libradet.utils.text import counted

_CROWD_ATTRIBUTES = ("is_crowd", "iscrowd", "difficult")
_HEAD_BYTES = 65_536
_NO_IMAGE, _ROTATED = "no image", "rotated"
_FIELDS = re.compile(rb'"dm_format_version"|"categories"\s*:\s*\{')


def list_splits(root: Path) -> Splits:
    """Return the splits, one for each file of ``annotations``; a subset named default is the only split."""
    files = {file.stem: file for file in list_files(root / "annotations", "*.json") if is_datumaro_file(file)}
    if list(files) == ["default"]:
        return {"all": partial(_read_split, root, "all", files["default"])}
    return {name: partial(_read_split, root, name, files[name]) for name in sort_splits(files)}


def is_datumaro_file(file: Path) -> bool:
    """Return whether a JSON file seems to be Datumaro's, by its beginning."""
    try:
        with file.open("rb") as opened:
            return _FIELDS.search(opened.read(_HEAD_BYTES)) is not None
    except OSError:
        return False


def _read_split(root: Path, split: str, file: Path) -> RawAnnotations:
    items, names = _sections(file)
    images = root / "images"
    folders = [folder for folder in (images / file.stem, images, root) if folder.is_dir()]
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    raw = RawAnnotations(root, split, file, folders, [], [], categories)
    kinds: Counter[str] = Counter()
    ids = _image_ids(items)
    for item, image_id in zip(items, ids, strict=True):
        media = item.get("image")
        if not isinstance(media, dict):
            kinds[_NO_IMAGE] += 1
            continue
        height, width = _size(media)
        name = str(media.get("path") or "").replace("\\", "/") or _name_of_id(str(item.get("id")), folders)
        raw.images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for record in _objects(item, width, height, kinds):
            raw.annotations.append({"id": len(raw.annotations) + 1, "image_id": image_id} | record)
    raw.notes += _notes(kinds)
    return raw


def _sections(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return items and class names.

    Raises:
        UserError: the file is not as Datumaro writes it.
    """
    content = read_json(file)
    items = content.get("items") if isinstance(content, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UserError(f"{file}: 'items' is not a list of images as Datumaro writes it; export the dataset again.")
    try:
        names = [str(label["name"]) for label in content["categories"]["label"]["labels"]]
    except (KeyError, TypeError):
        raise UserError(f"{file}: no labels in 'categories', so classes are unknown; export it with labels.") from None
    return items, names


def _image_ids(items: Sequence[dict[str, Any]]) -> list[Any]:
    """Return the ids that images had in COCO, if they are unique; else their numbers."""
    attributes = [item.get("attr") for item in items]
    ids = [a.get("id") if isinstance(a, dict) else None for a in attributes]
    keys = {normalize_id(i) for i in ids}
    return list(range(1, len(items) + 1)) if None in keys or len(keys) < len(ids) else ids


def _size(media: dict[str, Any]) -> tuple[Any, Any]:
    size = media.get("size")
    return (size[0], size[1]) if isinstance(size, list) and len(size) == 2 else (None, None)


def _name_of_id(item_id: str, folders: Sequence[Path]) -> str:
    names = (item_id + suffix for suffix in sorted(IMAGE_SUFFIXES))
    return next((n for n in names if any(os.path.isfile(folder / n) for folder in folders)), f"{item_id}.jpg")


def _objects(item: dict[str, Any], width: Any, height: Any, kinds: Counter[str]) -> Iterator[dict[str, Any]]:
    """Yield the objects of an image; one whose numbers are not valid has no box, and validation names it."""
    shapes: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
    listed = item.get("annotations")
    for order, annotation in enumerate(listed if isinstance(listed, list) else [], start=1):
        kind = str(annotation.get("type")) if isinstance(annotation, dict) else "invalid"
        if kind not in _READERS:
            kinds[kind] += 1
            continue
        kinds[_ROTATED] += bool(_rotation(annotation))
        group, label = annotation.get("group"), annotation.get("label_id")
        key = f"{group}, {label}" if group else order
        shapes.setdefault(key, []).append((order, annotation))
    for members in (part for group in shapes.values() for part in _separate_boxes(group)):
        order, first = members[0]
        where = f"item {item.get('id')}, annotation {order}"
        crowd = any(_is_crowd(annotation) for _, annotation in members)
        record = {"where": where, "category_id": first.get("label_id"), "iscrowd": int(crowd)}
        try:
            yield record | _merge([annotation for _, annotation in members], width, height).record()
        except (TypeError, ValueError, KeyError, OverflowError):
            yield record | {"bbox": None}


def _separate_boxes(group: list[tuple[int, dict[str, Any]]]) -> list[list[tuple[int, dict[str, Any]]]]:
    """Return the objects of a group: if it has several boxes, each of them, and the rest."""
    boxes = [member for member in group if member[1]["type"] == "bbox"]
    if len(boxes) < 2:
        return [group]
    rest = [member for member in group if member[1]["type"] != "bbox"]
    return [[box] for box in boxes] + ([rest] if rest else [])


def _merge(annotations: Sequence[dict[str, Any]], width: Any, height: Any) -> Shape:
    """Return the shape of an object; its box is the annotated one, if there is one."""
    boxes = [_READERS["bbox"](a) for a in annotations if a["type"] == "bbox"]
    outlines = [_READERS[a["type"]](a) for a in annotations if a["type"] != "bbox"]
    if not outlines:
        return boxes[0]
    merged = merge(outlines, width, height)
    return merged._replace(box=boxes[0].box) if boxes else merged


def _read_box(annotation: dict[str, Any]) -> Shape:
    x, y, w, h = (float(value) for value in annotation["bbox"])
    return Shape(upright_box([x, y, w, h], degrees) if (degrees := _rotation(annotation)) else [x, y, w, h], [])


def _rotation(annotation: dict[str, Any]) -> float:
    return rotation_of(annotation.get("attributes")) if annotation["type"] == "bbox" else 0.0


def _read_polygon(annotation: dict[str, Any]) -> Shape:
    points = [float(value) for value in annotation["points"]]
    return polygon(list(zip(points[::2], points[1::2], strict=True)))


def _read_ellipse(annotation: dict[str, Any]) -> Shape:
    x1, y1, x2, y2 = (float(value) for value in annotation["points"])
    return rectangle([(x1, y1), (x2, y2)])


def _read_mask(annotation: dict[str, Any]) -> Shape:
    mask = annotation["rle"]
    box = enclosing_box(mask)
    if box is None:
        raise ValueError("the mask is not valid")
    return Shape(box, [], mask)


_READERS = {"bbox": _read_box, "polygon": _read_polygon, "ellipse": _read_ellipse, "mask": _read_mask}


def _is_crowd(annotation: dict[str, Any]) -> bool:
    attributes = annotation.get("attributes")
    values = [attributes.get(key) for key in _CROWD_ATTRIBUTES] if isinstance(attributes, dict) else []
    return any(value in (1, "1", "true", "True") for value in values)


def _notes(kinds: Counter[str]) -> list[str]:
    no_image, rotated = kinds.pop(_NO_IMAGE, 0), describe_rotated(kinds.pop(_ROTATED, 0))
    frames = (
        [f"{counted(no_image, 'item')} without an image: point clouds or video frames, not read"] if no_image else []
    )
    omitted = (f"{counted(number, f'{kind} annotation')}: no box, not read" for kind, number in kinds.items())
    return [*frames, *omitted, *rotated]
