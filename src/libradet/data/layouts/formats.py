"""Recognizes how a folder holds a dataset, and turns every layout into COCO's terms."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from libradet.data.layouts import voc, yolo
from libradet.data.records import Raw
from libradet.errors import UserError
from libradet.utils.gc import gc_disabled

Layout = dict[str, Callable[[], Raw]]
"""Split name -> a function that reads it."""

LAYOUTS = """\
  train.json, val.json + images/                                 COCO records
  annotations.json + images/                                     COCO records, one split
  annotations/instances_train2017.json + train2017/              COCO
  train/_annotations.coco.json, valid/_annotations.coco.json     Roboflow's COCO export
  data.yaml + images/, labels/                                   YOLO
  Annotations/*.xml + JPEGImages/                                Pascal VOC"""

_ALIASES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val"}
_NOT_INSTANCES = re.compile(r"^(captions|person_keypoints|image_info|stuff|panoptic|deprecated)_")


def find_layout(data: Path) -> Layout:
    """The splits of a dataset, by names as its files give them.

    Raises:
        UserError: nothing there, or nothing recognized.
    """
    if not data.exists():
        raise UserError(f"{data}: no such folder.")
    if data.is_file():
        return _single_file(data)
    for place, (recognize, _) in enumerate(_RECOGNIZERS):
        if layout := recognize(data):
            others = [what for other, what in _RECOGNIZERS[place + 1 :] if _recognizes(other, data)]
            return {name: partial(_noting, read, others) for name, read in layout.items()} if others else layout
    raise UserError(f"{data}: no dataset recognized here. Looked for\n{LAYOUTS}")


def choose_split(layout: Layout, split: str | None, data: Path) -> str:
    """The layout's own name of a split asked for: exact, or an alias ("val" for "valid", "val2017").

    A dataset with one unnamed split serves any; None asks for the training split, else the first.

    Raises:
        UserError: there is no such split.
    """
    names = list(layout)
    if split in names:
        return split
    if names == ["all"]:
        return "all"
    wanted = standard_split(split or "train")
    matches = [name for name in names if standard_split(name) == wanted]
    if matches:
        return max(matches)
    if split is None:
        return names[0]
    raise UserError(f"{data}: there is no split {split!r}, only {', '.join(names)}.")


def standard_split(name: str) -> str:
    """``train2017`` -> ``train``, ``valid`` -> ``val``; other names as they are."""
    bare = re.sub(r"[_-]?(19|20)\d\d$", "", name.lower())
    return _ALIASES.get(bare, bare)


def read_json(path: Path, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """A JSON file's content; ``hook`` replaces every object as it is read.

    Raises:
        UserError: the file cannot be read or is damaged; names it and where.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    if not text.strip():
        raise UserError(f"{path}: the file is empty.")
    try:
        with gc_disabled():
            return json.loads(text.removeprefix(b"\xef\xbb\xbf"), object_hook=hook)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}, of {len(text):,} bytes"
        raise UserError(f"{path}: not valid JSON, it breaks at {place} ({error.msg}). Is it complete?") from None
    except (ValueError, RecursionError) as error:  # such as bytes that are no text, and numbers of 5,000 digits
        raise UserError(f"{path}: not valid JSON ({error}).") from None


def read_coco(path: Path, root: Path, split: str, folders: list[Path], roboflow: bool = False) -> Raw:
    """A COCO file as a raw split.

    Raises:
        UserError: the file is damaged or does not hold lists of images, annotations and categories.
    """
    content = read_json(path, _thin)
    if not isinstance(content, dict):
        what = "detection results" if isinstance(content, list) else "a single value"
        raise UserError(f"{path}: holds {what}, not a COCO dataset (an object with images, annotations, categories).")
    parts = []
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            problem = "is not a list" if key in content else "is missing"
            raise UserError(f"{path}: {key!r} {problem}: a COCO dataset has images, annotations and categories.")
        parts.append(content[key])
    raw = Raw(root, split, path, folders, *parts)
    raw.rest = {key: value for key, value in content.items() if key not in ("images", "annotations", "categories")}
    if roboflow:
        _drop_root_category(raw)
    return raw


def _thin(record: dict[str, Any]) -> dict[str, Any]:
    """Polygons as float32 arrays at once: as lists of Python floats those of COCO would fill gigabytes."""
    polygons = record.get("segmentation")
    if isinstance(polygons, list):
        # What cannot be converted stays as it is, for the checks to name it.
        with suppress(TypeError, ValueError, OverflowError):
            record["segmentation"] = [np.array(polygon, np.float32) for polygon in polygons]
    return record


def _drop_root_category(raw: Raw) -> None:
    """Roboflow lists the project itself as category 0, above all others, with no box of its own."""
    categories = [c for c in raw.categories if isinstance(c, dict)]
    for root in [c for c in categories if c.get("supercategory") == "none"]:
        others = [c for c in categories if c is not root]
        used = any(isinstance(a, dict) and a.get("category_id") == root.get("id") for a in raw.annotations)
        if others and not used and all(c.get("supercategory") == root.get("name") for c in others):
            raw.categories = [c for c in raw.categories if c is not root]
            raw.notes.append(f"category {root.get('name')!r} only groups the others: not a class")


def _folders(root: Path, split: str) -> list[Path]:
    candidates = [root / "images" / split, root / split, root / "images", root / split / "images", root]
    return [folder for folder in candidates if folder.is_dir()]


def _single_file(path: Path) -> Layout:
    if path.suffix != ".json":
        raise UserError(f"{path}: neither a folder nor a JSON file with COCO records.")
    roots = [path.parent] + ([path.parent.parent] if path.parent.name == "annotations" else [])
    name = path.stem.removeprefix("instances_")
    folders = [folder for root in roots for folder in _folders(root, name)]
    return {"all": partial(read_coco, path, path.parent, name, folders)}


def _records(root: Path) -> Layout:
    names = [name for name in ("train", "val", "valid", "validation", "test") if (root / f"{name}.json").is_file()]
    return {name: partial(read_coco, root / f"{name}.json", root, name, _records_folders(root, name)) for name in names}


def _records_folders(root: Path, split: str) -> list[Path]:
    shared = root / "images"
    folders = _folders(root, split)
    return sorted(folders, key=lambda folder: folder != shared)


def _single(root: Path) -> Layout:
    for name in ("annotations.json", "_annotations.coco.json", "instances.json"):
        if (root / name).is_file():
            return {"all": partial(read_coco, root / name, root, "all", _records_folders(root, "all"))}
    return {}


def _coco(root: Path) -> Layout:
    files = sorted((root / "annotations").glob("*.json"))
    instances = [file for file in files if file.stem.startswith("instances_")]
    files = instances or [file for file in files if not _NOT_INSTANCES.match(file.stem)]
    names = [file.stem.removeprefix("instances_") for file in files]
    layout = {}
    for name, file in zip(names, files, strict=True):
        layout[name] = partial(read_coco, file, root, name, _folders(root, name))
    if len(layout) == 1 and standard_split(names[0]) not in ("train", "val", "test"):
        return {"all": layout[names[0]]}
    order = {"train": 0, "val": 1, "test": 2}
    return dict(sorted(layout.items(), key=lambda item: (order.get(standard_split(item[0]), 3), item[0])))


def _roboflow(root: Path) -> Layout:
    layout = {}
    for name in ("train", "valid", "val", "test"):
        file = root / name / "_annotations.coco.json"
        if file.is_file():
            layout[name] = partial(read_coco, file, root, name, [root / name, root / name / "images"], roboflow=True)
    return layout


_RECOGNIZERS: tuple[tuple[Callable[[Path], Layout], str], ...] = (
    (_records, "train.json, val.json"),
    (_single, "annotations.json"),
    (_coco, "annotations/*.json"),
    (_roboflow, "*/_annotations.coco.json"),
    (yolo.recognize, "data.yaml"),
    (voc.recognize, "Annotations/*.xml"),
)
"""In this order, and which files they read."""


def _recognizes(recognize: Callable[[Path], Layout], data: Path) -> bool:
    try:
        return bool(recognize(data))
    except UserError:
        return True


def _noting(read: Callable[[], Raw], others: list[str]) -> Raw:
    """A split with a word on the files that are not read because of it."""
    raw = read()
    raw.notes.append(
        f"not used: {' and '.join(others)}, as {raw.source.name} is there; keep them in folders of their own"
    )
    return raw
