"""Pascal VOC format: one XML file per image.

Corners are read as written, x = xmin and width = xmax - xmin, without the "+1" of VOC's inclusive pixels, and written
in the same way, with decimals where needed. Objects marked difficult become crowd regions, and vice versa: as in VOC's
own evaluation they count neither as missed nor as false positives, and in training they are not negatives.

Written as ``Annotations/*.xml``, ``JPEGImages/`` and ``ImageSets/Main/SPLIT.txt``.
"""

import os
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from libradet.data.formats.filenames import UniqueNames, own_name, stem
from libradet.data.formats.reading import Splits, read_xml
from libradet.data.formats.writing import SplitToWrite, Writer, format_number, merged_classes, shortest_decimals
from libradet.data.image_headers import IMAGE_SUFFIXES
from libradet.data.records import Dataset, ImageRecord, RawAnnotations
from libradet.errors import UserError
from libradet.utils.atomic_io import read_text

ATTRIBUTES = ("pose", "truncated", "occluded")
"""Other properties of an object that are kept, although nothing here uses them."""

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def list_splits(root: Path) -> Splits:
    """Return the splits of ``ImageSets/Main``, else of folders with images and XML together, else a single one."""
    if location := _annotation_folder(root):
        annotations, folders = location
        files = sorted(annotations.glob("*.xml"))
        lists = sorted((annotations.parent / "ImageSets" / "Main").glob("*.txt"))
        splits = {file.stem: _listed_files(file, annotations) for file in lists if "_" not in file.stem}
        splits = {name: listed for name, listed in splits.items() if listed} or {"all": files}
        return {name: partial(_read_split, root, name, listed, files, folders) for name, listed in _sort(splits)}
    splits = {name: sorted((root / name).glob("*.xml")) for name in ("train", "valid", "val", "test")}
    splits = {name: files for name, files in splits.items() if files} or {"all": sorted(root.glob("*.xml"))}
    all_files = [file for files in splits.values() for file in files]
    return {
        name: partial(_read_split, root, name, files, all_files, [root, root / name])
        for name, files in splits.items()
        if files
    }


def _annotation_folder(root: Path) -> tuple[Path, list[Path]] | None:
    """Return the folder of XML files, at most two levels down (``VOCdevkit/VOC2007``), and the image folders."""
    for parent in [root, *sorted(root.glob("*/")), *sorted(root.glob("*/*/"))]:
        for name in ("Annotations", "annotations"):
            if next((parent / name).glob("*.xml"), None):
                folders = (parent / "JPEGImages", parent / "images", parent / name, parent)
                return parent / name, [folder for folder in folders if folder.is_dir()]
    return None


def _sort(splits: dict[str, list[Path]]) -> list[tuple[str, list[Path]]]:
    rank = {"train": 0, "val": 1, "trainval": 2, "test": 3}
    return sorted(splits.items(), key=lambda item: rank.get(item[0], 4))


def _listed_files(file: Path, annotations: Path) -> list[Path]:
    """Return the files of a list whose lines are names, possibly with spaces, or names with a flag of a class."""
    files = []
    for line in read_text(file).splitlines():
        if words := line.split():
            whole = annotations / f"{line}.xml"
            has_spaces = line != words[0] and os.path.isfile(whole)
            files.append(whole if has_spaces else annotations / f"{words[0]}.xml")
    return files


def _read_split(
    root: Path, split: str, files: list[Path], all_files: list[Path], folders: list[Path]
) -> RawAnnotations:
    """Read a split; classes are those of all splits in alphabetical order, so every split numbers them alike."""
    parsed = {file: _parse(file) for file in dict.fromkeys([*all_files, *files])}
    names = sorted({o["name"] for record in parsed.values() for o in record["objects"]})
    numbers = {name: i for i, name in enumerate(names, start=1)}
    categories = [{"id": i, "name": name} for name, i in numbers.items()]
    raw = RawAnnotations(root, split, files[0].parent, folders, [], [], categories)
    names_by_stem = _image_names_by_stem(folders)
    for image_id, file in enumerate(files, start=1):
        record = parsed[file]
        file_name = _image_name(file, record, folders, names_by_stem)
        raw.images.append({"id": image_id, "file_name": file_name, **record["size"]})
        for order, box in enumerate(record["objects"], start=1):
            raw.annotations.append(
                {
                    "id": len(raw.annotations) + 1,
                    "where": f"{file.name}, object {order}",
                    "image_id": image_id,
                    "category_id": numbers[box["name"]],
                    "bbox": box["bbox"],
                    "iscrowd": box["difficult"],
                    **({"attributes": box["attributes"]} if box["attributes"] else {}),
                }
            )
    num_difficult = sum(a["iscrowd"] for a in raw.annotations)
    if num_difficult:
        raw.notes.append(f"{num_difficult} objects are marked difficult: neither targets nor negatives")
    return raw


def _image_names_by_stem(folders: list[Path]) -> dict[str, str]:
    names: dict[str, str] = {}
    for folder in folders:
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.suffix.lower() in IMAGE_SUFFIXES:
                names.setdefault(path.stem, path.name)
    return names


def _image_name(file: Path, record: dict[str, Any], folders: list[Path], names_by_stem: dict[str, str]) -> str:
    """Return the name in the XML, unless only an image named like the XML file exists, as with some tools."""
    name = record["file_name"]
    if name and any(os.path.isfile(folder / name) for folder in folders):
        return name
    return names_by_stem.get(file.stem, name or f"{file.stem}.jpg")


def _parse(file: Path) -> dict[str, Any]:
    if not os.path.exists(file):
        raise UserError(f"{file}: listed in ImageSets/Main, but missing; remove it from the list.")
    tree = read_xml(file)
    size = {key: tree.findtext(f"size/{key}") for key in ("width", "height")}
    objects = [_parse_object(file, node) for node in tree.iter("object")]
    return {"file_name": tree.findtext("filename"), "size": size, "objects": objects}


def _parse_object(file: Path, node: ET.Element) -> dict[str, Any]:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{file}: an object has no <name>; add it.")
    try:
        x1, y1, x2, y2 = (float(node.findtext(f"bndbox/{key}") or "") for key in _CORNERS)
        box = [x1, y1, x2 - x1, y2 - y1]
    except ValueError:
        box = None
    difficult = int((node.findtext("difficult") or "0").strip() == "1")
    attributes = {key: text.strip() for key in ATTRIBUTES if (text := node.findtext(key))}
    return {"name": name, "bbox": box, "difficult": difficult, "attributes": attributes}


def supported_attributes(record: dict[str, Any]) -> dict[str, str]:
    """Return the ``attributes`` of a record that this format supports, as text."""
    recorded = record.get("attributes")
    attributes = recorded if isinstance(recorded, dict) else {}
    return {
        key: str(int(attributes[key]) if isinstance(attributes[key], bool) else attributes[key])
        for key in ATTRIBUTES
        if isinstance(attributes.get(key), str | int)
    }


def name_images(split: str, dataset: Dataset, folders: Sequence[Path], names: UniqueNames) -> list[str]:
    """Return the names of images in ``JPEGImages``; an image with the same objects in two splits is written once."""
    chosen: dict[str, None] = {}
    for row, image in enumerate(dataset.images):
        preferred = own_name(image.path, folders, dataset.split).replace("/", "_")
        classes = tuple(dataset.class_names[label] for label in image.labels)
        ground_truth = (image.path, image.apply_exif, classes, image.boxes.tobytes(), image.crowd.tobytes())
        name = names.choose(ground_truth, preferred, f"{split}_")
        if name in chosen:
            name = names.choose((split, row), preferred, f"{split}_")
        chosen[name] = None
    return list(chosen)


def write(root: Path, splits: Sequence[SplitToWrite], polygons: bool = False) -> None:
    """Write all splits. ``polygons`` has no effect: Pascal VOC has none.

    Raises:
        UserError: a class has a name that XML cannot hold.
    """
    _check_class_names(merged_classes(splits))
    (root / "Annotations").mkdir(parents=True)
    for split in splits:
        for image, name in zip(split.dataset.images, split.names, strict=True):
            tree = ET.ElementTree(_to_xml(image, name, split.dataset.class_names))
            ET.indent(tree)
            tree.write(root / "Annotations" / f"{stem(name)}.xml", encoding="utf-8")
    if [split.split for split in splits] != ["all"]:
        lists = root / "ImageSets" / "Main"
        lists.mkdir(parents=True)
        for split in splits:
            text = "".join(f"{stem(name)}\n" for name in split.names)
            (lists / f"{split.split}.txt").write_text(text, encoding="utf-8")


def _check_class_names(classes: list[str]) -> None:
    invalid = [name for name in classes if not name.isprintable() or name != name.strip()]
    if invalid:
        raise UserError(
            f"class {invalid[0]!r}: Pascal VOC cannot hold this name (spaces around it, control characters); rename it."
        )


def _to_xml(image: ImageRecord, name: str, classes: list[str]) -> ET.Element:
    root = ET.Element("annotation")
    _add(root, filename=name)
    _add(ET.SubElement(root, "size"), width=image.width, height=image.height)
    corners = shortest_decimals(image.boxes.astype(np.float64), lambda values: values, image.boxes)
    records = image.records[1] if image.records else [{}] * len(corners)
    for box, label, crowd, record in zip(corners, image.labels, image.crowd, records, strict=True):
        node = ET.SubElement(root, "object")
        _add(node, name=classes[label], **supported_attributes(record), difficult=int(crowd))
        _add(ET.SubElement(node, "bndbox"), **dict(zip(_CORNERS, map(format_number, box), strict=True)))
    return root


def _add(node: ET.Element, **values: Any) -> None:
    for key, value in values.items():
        ET.SubElement(node, key).text = str(value)


WRITER = Writer("JPEGImages", stem, name_images, write)
