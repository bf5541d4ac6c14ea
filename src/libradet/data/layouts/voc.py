"""Pascal VOC's layout: one XML file for each image.

Corners are read as they stand, x = xmin and width = xmax - xmin, without the "+1" of VOC's inclusive
pixels. Objects marked difficult become crowd regions: as in VOC's own measure they neither count as
missed nor as false when found, and in training they are no negatives.
"""

import os
import xml.etree.ElementTree as ET
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.parsers import expat

from libradet.data.headers import SUFFIXES
from libradet.data.records import Raw
from libradet.errors import UserError
from libradet.utils.atomic_io import read_text

ATTRIBUTES = ("pose", "truncated", "occluded")
"""What else is said of an object and kept, though nothing here uses it."""


def recognize(root: Path) -> dict[str, Callable[[], Raw]]:
    """Splits of ``ImageSets/Main``, else of folders with images and XML side by side, else a single one."""
    if home := _home(root):
        annotations, folders = home
        files = sorted(annotations.glob("*.xml"))
        lists = sorted((annotations.parent / "ImageSets" / "Main").glob("*.txt"))
        splits = {file.stem: _listed(file, annotations) for file in lists if "_" not in file.stem}
        splits = {name: chosen for name, chosen in splits.items() if chosen} or {"all": files}
        return {name: partial(_read, root, name, chosen, files, folders) for name, chosen in _order(splits)}
    sides = {name: sorted((root / name).glob("*.xml")) for name in ("train", "valid", "val", "test")}
    sides = {name: files for name, files in sides.items() if files} or {"all": sorted(root.glob("*.xml"))}
    every = [file for files in sides.values() for file in files]
    return {
        name: partial(_read, root, name, files, every, [root, root / name]) for name, files in sides.items() if files
    }


def _home(root: Path) -> tuple[Path, list[Path]] | None:
    """The folder of XML files, at most two levels down (``VOCdevkit/VOC2007``), and where images lie."""
    for place in [root, *sorted(root.glob("*/")), *sorted(root.glob("*/*/"))]:
        for name in ("Annotations", "annotations"):
            if next((place / name).glob("*.xml"), None):
                images = (place / "JPEGImages", place / "images", place / name, place)
                return place / name, [folder for folder in images if folder.is_dir()]
    return None


def _order(splits: dict[str, list[Path]]) -> list[tuple[str, list[Path]]]:
    rank = {"train": 0, "val": 1, "trainval": 2, "test": 3}
    return sorted(splits.items(), key=lambda item: rank.get(item[0], 4))


def _listed(file: Path, annotations: Path) -> list[Path]:
    """A line is a name, which may have spaces, or a name and whether a class occurs there."""
    files = []
    for line in read_text(file).splitlines():
        if words := line.split():
            whole = annotations / f"{line}.xml"
            known = line != words[0] and os.path.isfile(whole)
            files.append(whole if known else annotations / f"{words[0]}.xml")
    return files


def _read(root: Path, split: str, files: list[Path], every: list[Path], folders: list[Path]) -> Raw:
    """Classes come from all splits, in the order of the alphabet, so that every split numbers them alike."""
    parsed = {file: _parse(file) for file in dict.fromkeys([*every, *files])}
    names = sorted({o["name"] for record in parsed.values() for o in record["objects"]})
    numbers = {name: i for i, name in enumerate(names, start=1)}
    source = files[0].parent
    raw = Raw(root, split, source, folders, [], [], [{"id": i, "name": name} for name, i in numbers.items()])
    stems = _stems(folders)
    for image_id, file in enumerate(files, start=1):
        record = parsed[file]
        raw.images.append({"id": image_id, "file_name": _image(file, record, folders, stems), **record["size"]})
        for order, found in enumerate(record["objects"], start=1):
            raw.annotations.append(
                {
                    "id": len(raw.annotations) + 1,
                    "where": f"{file.name}, object {order}",
                    "image_id": image_id,
                    "category_id": numbers[found["name"]],
                    "bbox": found["bbox"],
                    "iscrowd": found["difficult"],
                    **({"attributes": found["attributes"]} if found["attributes"] else {}),
                }
            )
    difficult = sum(a["iscrowd"] for a in raw.annotations)
    if difficult:
        raw.notes.append(f"{difficult} objects are marked difficult: neither targets nor negatives")
    return raw


def _stems(folders: list[Path]) -> dict[str, str]:
    found: dict[str, str] = {}
    for folder in folders:
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.suffix.lower() in SUFFIXES:
                found.setdefault(path.stem, path.name)
    return found


def _image(file: Path, record: dict[str, Any], folders: list[Path], stems: dict[str, str]) -> str:
    """The name in the XML, unless (as tools often leave it) only the image named like the XML file exists."""
    name = record["file_name"]
    if name and any(os.path.isfile(folder / name) for folder in folders):
        return name
    return stems.get(file.stem, name or f"{file.stem}.jpg")


def _parse(file: Path) -> dict[str, Any]:
    tree = _read_xml(file)
    size = {key: tree.findtext(f"size/{key}") for key in ("width", "height")}
    objects = [_parse_object(file, node) for node in tree.iter("object")]
    return {"file_name": tree.findtext("filename"), "size": size, "objects": objects}


def _read_xml(file: Path) -> ET.Element:
    """The elements of a file; entities, with which a small one can become endless or read others, are refused."""
    builder = ET.TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler, parser.EntityDeclHandler = builder.data, _refuse_entity
    try:
        with file.open("rb") as opened:
            parser.ParseFile(opened)
        return builder.close()
    except FileNotFoundError:
        raise UserError(f"{file}: listed in ImageSets/Main, but missing.") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}).") from None
    except (expat.ExpatError, LookupError, ValueError, AssertionError) as error:  # the last three: strange encodings
        raise UserError(f"{file}: not valid XML ({error}).") from None


def _refuse_entity(*_: object) -> None:
    raise ValueError("it defines entities, which are not read")


def _parse_object(file: Path, node: ET.Element) -> dict[str, Any]:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{file}: an object has no <name>.")
    try:
        x1, y1, x2, y2 = (float(node.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax"))
        box = [x1, y1, x2 - x1, y2 - y1]
    except ValueError:
        box = None
    difficult = int((node.findtext("difficult") or "0").strip() == "1")
    said = {key: text.strip() for key in ATTRIBUTES if (text := node.findtext(key))}
    return {"name": name, "bbox": box, "difficult": difficult, "attributes": said}


def attributes(record: dict[str, Any]) -> dict[str, str]:
    """A record's ``attributes`` that objects have here, as text."""
    found = record.get("attributes")
    found = found if isinstance(found, dict) else {}
    return {
        key: str(int(found[key]) if isinstance(found[key], bool) else found[key])
        for key in ATTRIBUTES
        if isinstance(found.get(key), str | int)
    }
