"""YOLO's layout: ``data.yaml`` with class names, and one text file of relative boxes for each image."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from libradet.data.checks.report import few
from libradet.data.headers import SUFFIXES
from libradet.data.records import Raw, plain_id
from libradet.errors import UserError
from libradet.utils.atomic_io import read_text

MOST_CLASSES = 100_000
"""More in a file that names none is an error, or wants to take all memory."""


def recognize(root: Path) -> dict[str, Callable[[], Raw]]:
    """Splits named in ``data.yaml`` (or the one YAML file there is that names some)."""
    files = [root / "data.yaml", root / "dataset.yaml", *sorted(root.glob("*.yaml")), *sorted(root.glob("*.yml"))]
    for file in dict.fromkeys(files):
        if file.is_file() and (config := _read_config(file)):
            splits = [name for name in ("train", "val", "valid", "test") if config.get(name)]
            return {name: partial(_read_split, file, config, name) for name in splits}
    return {}


def _read_config(file: Path) -> dict[str, Any] | None:
    try:
        config = yaml.safe_load(read_text(file))
    except UserError:
        if file.name != "data.yaml":
            return None
        raise
    except Exception as error:  # PyYAML raises nearly anything, such as IndexError for an empty !!int
        if file.name != "data.yaml":
            return None
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: not valid YAML ({reason[:300]}).") from None
    if not isinstance(config, dict) or not (
        {"train", "val", "valid"} & config.keys() or {"test", "names"} <= config.keys()
    ):
        return None
    return config


def _read_split(file: Path, config: dict[str, Any], split: str) -> Raw:
    names = _class_names(file, config)
    images = _list_images(file, config, split)
    raw = Raw(file.parent, split, file, [file.parent], [], [], [], relative=True)
    raw.categories = [{"id": i, "name": name} for i, name in names.items()]
    unlabeled = 0
    for number, image in enumerate(images, start=1):
        inside = image.is_relative_to(file.parent)
        raw.images.append({"id": number, "file_name": str(image.relative_to(file.parent) if inside else image)})
        labels = _label_file(image)
        unlabeled += not labels.is_file()
        if labels.is_file():
            _read_labels(labels, number, raw.annotations)
    if unlabeled:
        raw.notes.append(f"{unlabeled} images have no label file: taken as background")
    return raw


def _class_names(file: Path, config: dict[str, Any]) -> dict[int, str]:
    names = config.get("names")
    if names is None and isinstance(config.get("nc"), int) and config["nc"] <= MOST_CLASSES:
        names = [str(i) for i in range(config["nc"])]
    if isinstance(names, list):
        names = dict(enumerate(names))
    # A name that is a list may be a small one in the file and endless when it is written out.
    if isinstance(names, dict) and names and not any(isinstance(name, list | dict) for name in names.values()):
        numbers = {plain_id(key): str(name) for key, name in names.items()}
        if all(isinstance(number, int) and number >= 0 for number in numbers):
            return dict(sorted(numbers.items()))
    raise UserError(f"{file}: 'names' must list the class names (a list, or a mapping from number to name).")


def _list_images(file: Path, config: dict[str, Any], split: str) -> list[Path]:
    entries = config[split] if isinstance(config[split], list) else [config[split]]
    images: list[Path] = []
    for entry in entries:
        if not isinstance(entry, str):
            raise UserError(f"{file}: {split} must be a folder, a file with a list of images, or several of them.")
        place = _resolve(file, config, entry, split)
        if place.is_dir():
            found = (p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES)
            images += sorted(found)
        else:
            lines = (line.strip() for line in read_text(place).splitlines())
            images += [_listed(place, line) for line in lines if line]
    return images


def _listed(file: Path, line: str) -> Path:
    path = Path(line)
    beside = file.parent / path
    return path if path.is_absolute() or not os.path.exists(beside) else beside


def _resolve(file: Path, config: dict[str, Any], entry: str, split: str) -> Path:
    """Where an entry points to; exports often carry paths of the machine they were made on."""
    root, path = file.parent, Path(entry)
    base = Path(config["path"] if isinstance(config.get("path"), str) else ".")
    bare = Path(*[part for part in path.parts if part not in ("..", ".", path.anchor)])
    candidates = [root / base / path, root / path, root / bare, root / split / "images", root / "images" / split]
    for candidate in candidates:
        if os.path.exists(candidate):
            return candidate
    looked = few(list(dict.fromkeys(candidates)))
    raise UserError(f"{file}: {split}: {few([entry])} does not exist (looked in {looked}).")


def _label_file(image: Path) -> Path:
    """``.../images/a/b.jpg`` -> ``.../labels/a/b.txt`` (last "images" in the path), else beside the image."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            return Path(*parts).with_suffix(".txt")
    return image.with_suffix(".txt")


def _read_labels(file: Path, image_id: int, annotations: list[Any]) -> None:
    """Lines ``class cx cy w h`` or ``class x1 y1 x2 y2 x3 y3 ...`` (a polygon)."""
    text = read_text(file, errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        record = {"id": len(annotations) + 1, "image_id": image_id, "where": f"{file.name}:{number}"}
        annotations.append(record | _parse(line.split()))


def _parse(fields: list[str]) -> dict[str, Any]:
    try:
        category, *numbers = [float(field) for field in fields]
    except ValueError:
        return {"category_id": fields[0], "bbox": None}
    if len(numbers) == 4:
        cx, cy, w, h = numbers
        return {"category_id": category, "bbox": [cx - w / 2, cy - h / 2, w, h]}
    if len(numbers) < 6 or len(numbers) % 2:
        return {"category_id": category, "bbox": None}
    xs, ys = numbers[::2], numbers[1::2]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return {"category_id": category, "bbox": box, "segmentation": [numbers]}
