"""Writes Pascal VOC's layout: ``Annotations/*.xml``, ``JPEGImages/`` and ``ImageSets/Main/SPLIT.txt``.

Corners are written as they are read: x1 = xmin, x2 = xmax, from 0, with decimals where there are some. Crowd regions
are marked difficult.
"""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libradet.data.layouts.naming import Names, own_name, stem
from libradet.data.layouts.parts import Part, merged_classes, shortest, text
from libradet.data.layouts.voc import attributes
from libradet.data.records import Dataset, ImageRecord
from libradet.errors import UserError


def names(split: str, dataset: Dataset, folders: Sequence[Path], known: Names) -> list[str]:
    """Names of images in ``JPEGImages``, a flat folder: an image with the same objects in two splits is one."""
    chosen: dict[str, None] = {}
    for row, image in enumerate(dataset.images):
        wanted = own_name(image.path, folders, dataset.split).replace("/", "_")
        classes = tuple(dataset.class_names[label] for label in image.labels)
        truth = (image.path, image.upright, classes, image.boxes.tobytes(), image.crowd.tobytes())
        name = known.choose(truth, wanted, f"{split}_")
        chosen[known.choose((split, row), wanted, f"{split}_") if name in chosen else name] = None
    return list(chosen)


def write(root: Path, parts: Sequence[Part]) -> None:
    """Write all splits.

    Raises:
        UserError: a class has a name that XML cannot hold.
    """
    _check_classes(merged_classes(parts))
    (root / "Annotations").mkdir(parents=True)
    for part in parts:
        for image, name in zip(part.dataset.images, part.names, strict=True):
            tree = ET.ElementTree(_describe(image, name, part.dataset.class_names))
            ET.indent(tree)
            tree.write(root / "Annotations" / f"{stem(name)}.xml", encoding="utf-8")
    if [part.split for part in parts] != ["all"]:
        lists = root / "ImageSets" / "Main"
        lists.mkdir(parents=True)
        for part in parts:
            (lists / f"{part.split}.txt").write_text("".join(f"{stem(n)}\n" for n in part.names), encoding="utf-8")


def _check_classes(classes: list[str]) -> None:
    bad = [name for name in classes if not name.isprintable() or name != name.strip()]
    if bad:
        raise UserError(f"class {bad[0]!r}: Pascal VOC cannot hold this name (spaces around it, control characters).")


def _describe(image: ImageRecord, name: str, classes: list[str]) -> ET.Element:
    root = ET.Element("annotation")
    _add(root, filename=name)
    _add(ET.SubElement(root, "size"), width=image.width, height=image.height)
    corners = shortest(image.boxes.astype(np.float64), lambda values: values, image.boxes)
    records = image.records[1] if image.records else [{}] * len(corners)
    for box, label, crowd, record in zip(corners, image.labels, image.crowd, records, strict=True):
        node = ET.SubElement(root, "object")
        _add(node, name=classes[label], **attributes(record), difficult=int(crowd))
        keys = ("xmin", "ymin", "xmax", "ymax")
        _add(ET.SubElement(node, "bndbox"), **dict(zip(keys, map(text, box), strict=True)))
    return root


def _add(node: ET.Element, **values: Any) -> None:
    for key, value in values.items():
        ET.SubElement(node, key).text = str(value)
