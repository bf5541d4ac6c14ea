"""An XML file of Pascal VOC: name and size of its image, and its objects."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from libradet.data.formats.reading import read_xml
from libradet.data.formats.rotation import parse_rotation, upright_box
from libradet.errors import UserError

ATTRIBUTES = ("pose", "truncated", "occluded")
"""Other properties of an object that are kept, although nothing here uses them."""

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def parse(file: Path) -> dict[str, Any]:
    """Return ``file_name`` and ``size`` as written, and ``objects``, one for each box.

    An object has ``name``, ``bbox`` (xywh; None if it is not valid), ``difficult`` (0 or 1), ``is_rotated``, and
    ``attributes`` as text.

    Raises:
        UserError: the file is damaged, or an object has no name.
    """
    tree = read_xml(file)
    size = {key: tree.findtext(f"size/{key}") for key in ("width", "height")}
    objects = [box for node in tree.iter("object") for box in _parse_object(file, node)]
    return {"file_name": tree.findtext("filename"), "size": size, "objects": objects}


def _parse_object(file: Path, node: ET.Element) -> list[dict[str, Any]]:
    """Return the boxes of an object: usually one, and one without corners if there is none."""
    name = (node.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{file}: an object has no <name>; add it.")
    named = _named_attributes(node)
    crowd = any(_is_set(node.findtext(key)) for key in ("difficult", "iscrowd")) or _is_set(named.get("is_crowd"))
    degrees = parse_rotation(named.get("rotation"))
    attributes = {key: text.strip() for key in ATTRIBUTES if (text := node.findtext(key))}
    shared = {"name": name, "difficult": int(crowd), "is_rotated": bool(degrees), "attributes": attributes}
    return [shared | {"bbox": _parse_box(box, degrees)} for box in node.findall("bndbox")] or [shared | {"bbox": None}]


def _named_attributes(node: ET.Element) -> dict[str, str]:
    """Return the attributes that CVAT and Datumaro add to an object, such as ``is_crowd`` and ``rotation``."""
    pairs = ((part.findtext("name") or "", part.findtext("value") or "") for part in node.iter("attribute"))
    return {name.strip(): value for name, value in pairs}


def _is_set(flag: str | None) -> bool:
    return (flag or "").strip().lower() in ("1", "1.0", "true", "yes")


def _parse_box(node: ET.Element, degrees: float) -> list[float] | None:
    try:
        x1, y1, x2, y2 = (float(node.findtext(key) or "") for key in CORNERS)
    except ValueError:
        return None
    box = [x1, y1, x2 - x1, y2 - y1]
    return upright_box(box, degrees) if degrees else box
