"""The JSON format of labelme, AnyLabeling and X-AnyLabeling: a file with shapes for each image, beside it.

Shapes of one label with the same ``group_id`` are parts of one object. Images without a JSON file are background:
labelme writes none for an image without a shape.
"""

import base64
import io
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from libradet.data.formats.filenames import is_image_name
from libradet.data.formats.reading import Splits, list_files, read_json, sort_splits, split_of_folder
from libradet.data.formats.shapes import Shape, bitmap, circle, merge, polygon, rectangle
from libradet.data.image_headers import read_header
from libradet.data.records import RawAnnotations
from libradet.errors import UserError
from libradet.utils.atomic_io import read_text
from libradet.utils.text import counted, summarize_list

_PATTERNS = ("*.json", "*/*.json", "*/*/*.json")
_CLASS_LISTS = ("labels.txt", "classes.txt")
_NO_CLASSES = ("__ignore__", "_background_")
_CROWD_FLAGS = ("difficult", "iscrowd", "is_crowd")

_MAX_PROBED_FILES = 50
_MAX_PROBED_BYTES = 200_000_000


class _LabelFile(NamedTuple):
    """The JSON file of an image, and what it holds of use.

    Attributes:
        image: its image file; None if there is none.
        image_path: the image as the file names it.
        size: width and height as written.
        is_embedded: whether the file also contains the image.
    """

    path: Path
    image: Path | None
    image_path: str
    size: tuple[Any, Any]
    shapes: list[dict[str, Any]]
    is_embedded: bool


_Files = dict[str, list[_LabelFile]]
"""Label files of each split."""


def list_splits(root: Path) -> Splits:
    """Return the splits: folders named train, val, test at most two levels down; all other files are one split."""
    listed = [file for pattern in _PATTERNS for file in list_files(root, pattern)]
    if not any(is_labelme_file(file) for file in listed[:_MAX_PROBED_FILES]):
        return {}
    files: dict[str, list[Path]] = {}
    for file in listed:
        if is_labelme_file(file):
            files.setdefault(split_of_folder(file.relative_to(root)), []).append(file)
    if len(files) > 1 and "all" in files:
        files["others"] = files.pop("all")
    read_all = cache(partial(_read_files, root, files))
    return {name: partial(_read_split, root, name, read_all) for name in sort_splits(files)}


def is_labelme_file(file: Path) -> bool:
    """Return whether a JSON file names labelme's fields, without parsing it."""
    try:
        with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as text:
            if len(text) > _MAX_PROBED_BYTES:
                return False
            return text.find(b'"imagePath"') >= 0 and text.find(b'"shapes"') >= 0
    except (OSError, ValueError):  # unreadable or empty
        return False


def _read_files(root: Path, files: dict[str, list[Path]]) -> _Files:
    locate = _ImageLocator(root)
    return {split: [_read_file(path, locate) for path in paths] for split, paths in files.items()}


def _read_file(path: Path, locate: "_ImageLocator") -> _LabelFile:
    content = read_json(path)
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise UserError(f"{path}: 'shapes' is not a list of shapes as labelme writes it; remove or repair the file.")
    unlabeled = [i for i, shape in enumerate(shapes, start=1) if not _label_of(shape)]
    if unlabeled:
        raise UserError(f"{path}: shape {unlabeled[0]} has no label; add it.")
    image_path = str(content.get("imagePath") or "").replace("\\", "/")
    size = content.get("imageWidth"), content.get("imageHeight")
    return _LabelFile(path, locate(path, image_path), image_path, size, shapes, bool(content.get("imageData")))


def _label_of(shape: dict[str, Any]) -> str:
    label = shape.get("label")
    return label.strip() if isinstance(label, str) else ""


class _ImageLocator:
    """Image files by their folder and their name without suffix and case."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = cache(self._list)

    def __call__(self, file: Path, image_path: str) -> Path | None:
        """Return the image that a JSON file names, else one named like the JSON file, beside it or in ``images``."""
        written = Path(image_path)
        if image_path and is_image_name(written.name) and (file.parent / written).is_file():
            return Path(os.path.normpath(file.parent / written))
        inside = file.parent.relative_to(self.root).parts
        folders = [file.parent, file.parent.parent / "images"] if inside else [file.parent, self.root / "images"]
        # annotations/train/a.json belongs to images/train/a.jpg
        folders += [self.root.joinpath("images", *inside[1:]), self.root / "images"]
        for stem in dict.fromkeys([written.stem, file.stem]):
            for folder in dict.fromkeys(folders):
                if path := self.images(folder).get(stem.casefold()):
                    return path
        return None

    @staticmethod
    def _list(folder: Path) -> dict[str, Path]:
        if not folder.is_dir():
            return {}
        names = sorted(name for name in os.listdir(folder) if is_image_name(name))
        return {Path(name).stem.casefold(): folder / name for name in reversed(names)}


def _read_split(root: Path, split: str, read_all: Callable[[], _Files]) -> RawAnnotations:
    files = read_all()
    names, notes = _class_names(root, [file for own in files.values() for file in own])
    numbers = {name: i for i, name in enumerate(names, start=1)}
    categories = [{"id": i, "name": name} for name, i in numbers.items()]
    raw = RawAnnotations(root, split, files[split][0].path.parent, [root], [], [], categories, notes=notes)
    kinds: Counter[str] = Counter()
    for image_id, file in enumerate(files[split], start=1):
        width, height = _size(file)
        name = _file_name(root, file.image) if file.image else file.image_path or f"{file.path.stem}.jpg"
        raw.images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for record in _annotations(file, width, height, numbers, kinds):
            raw.annotations.append({"id": len(raw.annotations) + 1, "image_id": image_id} | record)
    raw.notes += _notes(kinds, files[split])
    _add_background(raw, files)
    return raw


def _class_names(root: Path, files: list[_LabelFile]) -> tuple[list[str], list[str]]:
    """Return the classes of all splits in the order of ``labels.txt``, then of the alphabet, and a note."""
    lists = [root / name for name in _CLASS_LISTS if (root / name).is_file()]
    lines = [line.strip() for line in read_text(lists[0]).splitlines()] if lists else []
    listed = [line for line in dict.fromkeys(lines) if line and line not in _NO_CLASSES]
    used = {_label_of(shape) for file in files for shape in file.shapes if _kind_of(shape) in _READERS}
    others = sorted(used - {*listed, *_NO_CLASSES})
    notes = [f"{len(others)} labels are not in {lists[0].name}: {summarize_list(others)}"] if listed and others else []
    return listed + others, notes


def _file_name(root: Path, image: Path) -> str:
    return str(image.relative_to(root) if image.is_relative_to(root) else image.absolute())


def _size(file: _LabelFile) -> tuple[Any, Any]:
    """Return width and height as written, else of the image file."""
    if all(type(side) is int and side > 0 for side in file.size) or file.image is None:
        return file.size
    return read_header(file.image).upright_size


def _annotations(
    file: _LabelFile, width: Any, height: Any, numbers: dict[str, int], kinds: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Yield the objects of an image; a shape that is not valid has no box, and validation names it."""
    objects: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
    for order, shape in enumerate(file.shapes, start=1):
        kind, label, group = _kind_of(shape), _label_of(shape), shape.get("group_id")
        if label in _NO_CLASSES or kind not in _READERS:
            kinds[label if label in _NO_CLASSES else kind] += 1
            continue
        key = (label, f"shape {order}" if group is None else f"group {group}")
        objects.setdefault(key, []).append((order, shape))
    for (label, _), parts in objects.items():
        crowd = any(_is_crowd(shape) for _, shape in parts)
        where = f"{file.path.name}, shape {parts[0][0]}"
        record = {"where": where, "category_id": numbers[label], "iscrowd": int(crowd)}
        if len(parts) > 1:
            kinds["parts"] += len(parts)
            kinds["objects of parts"] += 1
        try:
            outlines = [_READERS[_kind_of(shape)](shape, width, height) for _, shape in parts]
            yield record | merge(outlines, width, height).record()
        except (TypeError, ValueError, OverflowError):
            yield record | {"bbox": None}


def _kind_of(shape: dict[str, Any]) -> str:
    return str(shape.get("shape_type") or "polygon")


def _is_crowd(shape: dict[str, Any]) -> bool:
    flags = shape.get("flags")
    return any(shape.get(key) is True or (isinstance(flags, dict) and flags.get(key) is True) for key in _CROWD_FLAGS)


def _points(shape: dict[str, Any], minimum: int) -> list[tuple[float, float]]:
    points = [(float(x), float(y)) for x, y in shape.get("points") or []]
    if len(points) < minimum:
        raise ValueError("too few points")
    return points


def _read_circle(shape: dict[str, Any], width: int, height: int) -> Shape:
    center, edge = _points(shape, 2)
    return circle(center, math.dist(center, edge))


def _read_mask(shape: dict[str, Any], width: int, height: int) -> Shape:
    left, top = (int(value) for value in _points(shape, 1)[0])
    try:
        with Image.open(io.BytesIO(base64.b64decode(str(shape.get("mask")))), formats=("PNG",)) as image:
            pixels = np.asarray(image.convert("L")) > 0
    except Exception as error:  # decoders raise almost any exception on damaged input
        raise ValueError("the mask is no PNG file") from error
    return bitmap(pixels, left, top, width, height)


_READERS: dict[str, Callable[[dict[str, Any], int, int], Shape]] = {
    "rectangle": lambda shape, width, height: rectangle(_points(shape, 2)),
    "polygon": lambda shape, width, height: polygon(_points(shape, 2)),
    "rotation": lambda shape, width, height: polygon(_points(shape, 3)),
    "oriented_rectangle": lambda shape, width, height: polygon(_points(shape, 3)),
    "quadrilateral": lambda shape, width, height: polygon(_points(shape, 3)),
    "circle": _read_circle,
    "mask": _read_mask,
}


def _notes(kinds: Counter[str], files: list[_LabelFile]) -> list[str]:
    notes = []
    omitted = {kind: n for kind, n in kinds.items() if kind not in ("parts", "objects of parts")}
    for kind, number in omitted.items():
        one, many = ("is no class", "are no class") if kind in _NO_CLASSES else ("has no box", "have no box")
        notes.append(f"{counted(number, f'{kind} shape {one}', f'{kind} shapes {many}')}: not read")
    if kinds["parts"]:
        objects = counted(kinds["objects of parts"], "object")
        notes.append(f"{kinds['parts']} shapes with a group_id are parts of {objects}")
    renamed = [file for file in files if file.image and file.image.name != Path(file.image_path).name]
    if renamed:
        example = f"{renamed[0].path.name} names {renamed[0].image_path!r}"
        notes.append(
            f"{counted(len(renamed), 'image does not', 'images do not')} exist as imagePath names them, "
            f"others were matched ({example})"
        )
    embedded = [file for file in files if file.image is None and file.is_embedded]
    if embedded:
        example = embedded[0].path.name
        notes.append(f"{len(embedded)} missing images are embedded in their JSON files ({example}): save them beside")
    return notes


def _add_background(raw: RawAnnotations, files: _Files) -> None:
    """Add the images of the split's folders that have no JSON file, unless another split has images there, too."""
    folders = {split: {f.image.parent for f in own if f.image} for split, own in files.items()}
    known = {file.image for own in files.values() for file in own}
    unlabeled: dict[bool, list[Path]] = {False: [], True: []}
    for folder in sorted(folders[raw.split]):
        is_shared = any(folder in others for split, others in folders.items() if split != raw.split)
        paths = [folder / name for name in sorted(os.listdir(folder)) if is_image_name(name)]
        unlabeled[is_shared] += [path for path in paths if path not in known]
    for path in unlabeled[False]:
        raw.images.append({"id": len(raw.images) + 1, "file_name": _file_name(raw.root, path)})
    if number := len(unlabeled[False]):
        raw.notes.append(f"{counted(number, 'image has', 'images have')} no JSON file: used as background")
    if number := len(unlabeled[True]):
        raw.notes.append(
            f"{counted(number, 'image without a JSON file is', 'images without a JSON file are')} in a folder "
            "of several splits: not used"
        )
