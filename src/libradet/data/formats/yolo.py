"""YOLO format: ``data.yaml`` with class names, and a text file of normalized boxes or polygons per image.

Written as ``data.yaml``, ``images/SPLIT/`` and ``labels/SPLIT/``.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float32, Float64
from numpy import ndarray

from libradet.data.formats.filenames import UniqueNames, own_name, stem, with_image_suffix
from libradet.data.formats.reading import Splits
from libradet.data.formats.writing import SplitToWrite, Writer, format_number, merged_classes, shortest_decimals
from libradet.data.image_headers import IMAGE_SUFFIXES, apply_exif_to_points, read_header
from libradet.data.records import Dataset, ImageRecord, RawAnnotations, normalize_id
from libradet.data.segmentations import rounded_polygon
from libradet.data.validation.annotations import MIN_SIDE
from libradet.errors import UserError
from libradet.utils.atomic_io import read_text
from libradet.utils.text import summarize_list

MAX_UNNAMED_CLASSES = 100_000
"""Largest ``nc`` of a file without class names; a larger number is an error, or would exhaust memory."""

_MAX_REASON_CHARS = 300


def list_splits(root: Path) -> Splits:
    """Return the splits named in ``data.yaml``, or in the first YAML file that names some."""
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
    except Exception as error:  # PyYAML raises almost any exception, such as IndexError for an empty !!int
        if file.name != "data.yaml":
            return None
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: not valid YAML ({reason[:_MAX_REASON_CHARS]}).") from None
    if not isinstance(config, dict) or not (
        {"train", "val", "valid"} & config.keys() or {"test", "names"} <= config.keys()
    ):
        return None
    return config


def _read_split(file: Path, config: dict[str, Any], split: str) -> RawAnnotations:
    names = _class_names(file, config)
    images = _list_images(file, config, split)
    raw = RawAnnotations(file.parent, split, file, [file.parent], [], [], [], normalized=True)
    raw.categories = [{"id": i, "name": name} for i, name in names.items()]
    num_unlabeled = 0
    for number, image in enumerate(images, start=1):
        inside = image.is_relative_to(file.parent)
        raw.images.append({"id": number, "file_name": str(image.relative_to(file.parent) if inside else image)})
        labels = _label_file(image)
        if labels.is_file():
            _read_labels(labels, number, raw.annotations)
        else:
            num_unlabeled += 1
    if num_unlabeled:
        raw.notes.append(f"{num_unlabeled} images have no label file: used as background")
    return raw


def _class_names(file: Path, config: dict[str, Any]) -> dict[int, str]:
    names = config.get("names")
    if names is None and isinstance(config.get("nc"), int) and config["nc"] <= MAX_UNNAMED_CLASSES:
        names = [str(i) for i in range(config["nc"])]
    if isinstance(names, list):
        names = dict(enumerate(names))
    # With YAML aliases, a name that is a list may be short in the file and endless as text.
    if isinstance(names, dict) and names and not any(isinstance(name, list | dict) for name in names.values()):
        numbers = {normalize_id(key): str(name) for key, name in names.items()}
        if all(isinstance(number, int) and number >= 0 for number in numbers):
            return dict(sorted(numbers.items()))
    raise UserError(f"{file}: 'names' must list the class names (a list, or a mapping from number to name).")


def _list_images(file: Path, config: dict[str, Any], split: str) -> list[Path]:
    entries = config[split] if isinstance(config[split], list) else [config[split]]
    images: list[Path] = []
    for entry in entries:
        if not isinstance(entry, str):
            raise UserError(f"{file}: {split} must be a folder, a file with a list of images, or a list of these.")
        location = _resolve_entry(file, config, entry, split)
        if location.is_dir():
            images += sorted(path for path in location.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        else:
            lines = (line.strip() for line in read_text(location).splitlines())
            images += [_listed_image(location, line) for line in lines if line]
    return images


def _listed_image(file: Path, line: str) -> Path:
    path = Path(line)
    relative_to_list = file.parent / path
    return path if path.is_absolute() or not os.path.exists(relative_to_list) else relative_to_list


def _resolve_entry(file: Path, config: dict[str, Any], entry: str, split: str) -> Path:
    """Return the location of an entry; exports often contain paths of the machine on which they were created."""
    root, path = file.parent, Path(entry)
    base = Path(config["path"] if isinstance(config.get("path"), str) else ".")
    bare = Path(*[part for part in path.parts if part not in ("..", ".", path.anchor)])
    candidates = [root / base / path, root / path, root / bare, root / split / "images", root / "images" / split]
    for candidate in candidates:
        if os.path.exists(candidate):
            return candidate
    searched = summarize_list(list(dict.fromkeys(candidates)))
    raise UserError(f"{file}: {split}: {summarize_list([entry])} does not exist (searched {searched}).")


def _label_file(image: Path) -> Path:
    """Return ``.../labels/a/b.txt`` for ``.../images/a/b.jpg`` (last "images" in the path), else next to the image."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            return Path(*parts).with_suffix(".txt")
    return image.with_suffix(".txt")


def _read_labels(file: Path, image_id: int, annotations: list[Any]) -> None:
    """Read lines ``class cx cy w h`` or ``class x1 y1 x2 y2 x3 y3 ...`` (a polygon)."""
    text = read_text(file, errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        record = {"id": len(annotations) + 1, "image_id": image_id, "where": f"{file.name}:{number}"}
        annotations.append(record | _parse_label(line.split()))


def _parse_label(fields: list[str]) -> dict[str, Any]:
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


def name_images(split: str, dataset: Dataset, folders: Sequence[Path], names: UniqueNames) -> list[str]:
    """Return the names of images in ``images/SPLIT``; each has a label file of its own."""
    chosen = []
    for row, image in enumerate(dataset.images):
        preferred = with_image_suffix(own_name(image.path, folders, dataset.split), image.path)
        chosen.append(names.choose((split, row), f"{split}/{preferred}").removeprefix(f"{split}/"))
    return chosen


def write(root: Path, splits: Sequence[SplitToWrite], polygons: bool = False) -> None:
    """Write all splits without their crowd regions, which YOLO does not support.

    Args:
        root: folder of the dataset.
        splits: to be written.
        polygons: write polygons in place of boxes, where there are some.
    """
    classes = merged_classes(splits)
    numbers = {name: number for number, name in enumerate(classes)}
    for split in splits:
        class_numbers = [numbers[name] for name in split.dataset.class_names]
        for image, name in zip(split.dataset.images, split.names, strict=True):
            file = root / "labels" / split.split / f"{stem(name)}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            lines = _label_lines(_apply_exif(image), class_numbers, polygons)
            file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    config = {split.split: f"images/{split.split}" for split in splits} | {"names": dict(enumerate(classes))}
    text = yaml.safe_dump(config, allow_unicode=True, sort_keys=False)
    (root / "data.yaml").write_text(text, encoding="utf-8")


def polygon_of(image: ImageRecord, i: int | np.integer) -> Float64[ndarray, "V 2"] | None:
    """Return an object's outline as one polygon inside its image; None if it has none that could be written."""
    segmentation = image.segmentations[i] if image.segmentations else None
    if not isinstance(segmentation, list):
        return None
    polygons = [rounded_polygon(polygon).reshape(-1, 2) for polygon in segmentation]
    ring = np.clip(_join_polygons(polygons), 0, [image.width, image.height])
    return ring if (np.ptp(ring, axis=0) > MIN_SIDE).all() else None


def _label_lines(image: ImageRecord, class_numbers: list[int], polygons: bool) -> list[str]:
    size = np.array([image.width, image.height], np.float64)
    boxes = _normalize_boxes(image.boxes, size)
    lines = []
    for i in np.flatnonzero(~image.crowd):
        ring = polygon_of(image, i) if polygons else None
        values = boxes[i] if ring is None else (ring / size).ravel().round(8)
        lines.append(" ".join([str(class_numbers[image.labels[i]]), *map(format_number, values)]))
    return lines


def _normalize_boxes(boxes: Float32[ndarray, "N 4"], size: Float64[ndarray, " 2"]) -> Float64[ndarray, "N 4"]:
    """Return center, width and height as fractions of the image."""

    def read(values: Float64[ndarray, "N 4"]) -> Float64[ndarray, "N 4"]:
        low, sides = (values[:, :2] - values[:, 2:] / 2) * size, values[:, 2:] * size
        return np.clip(np.concatenate([low, low + sides], 1), 0, np.tile(size, 2))

    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    return shortest_decimals(np.concatenate([(low + high) / 2 / size, (high - low) / size], 1), read, boxes)


def _join_polygons(polygons: list[Float64[ndarray, "_ 2"]]) -> Float64[ndarray, "V 2"]:
    """Join polygons to one, with a path of zero area from the first to each other and back."""
    first, *others = polygons
    if not others:
        return first
    start = first[:1]
    return np.concatenate([first, start, *(part for p in others for part in (p, p[:1], start))])


def _apply_exif(image: ImageRecord) -> ImageRecord:
    """Return boxes and polygons in the upright image: YOLO stores no size, so readers apply the EXIF rotation."""
    if image.apply_exif:
        return image
    width, height = image.width, image.height
    orientation = read_header(image.path).orientation
    corners = apply_exif_to_points(image.boxes.reshape(-1, 2), width, height, orientation).reshape(-1, 2, 2)
    segmentations: list = [
        [apply_exif_to_points(p.reshape(-1, 2), width, height, orientation).ravel() for p in segmentation]
        if isinstance(segmentation, list)
        else None
        for segmentation in image.segmentations or []
    ]
    return replace(
        image,
        width=height,
        height=width,
        boxes=np.concatenate([corners.min(1), corners.max(1)], 1),
        segmentations=segmentations or None,
        apply_exif=True,
    )


WRITER = Writer("images/{split}", stem, name_images, write)
