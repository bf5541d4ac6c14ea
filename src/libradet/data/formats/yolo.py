"""YOLO format: ``data.yaml`` with class names, and a text file of normalized boxes or polygons per image.

Written as ``data.yaml``, ``images/SPLIT/`` and ``labels/SPLIT/``.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float32, Float64
from numpy import ndarray

from libradet.data.formats.filenames import (
    UniqueNames,
    is_image_name,
    list_images,
    own_name,
    stem,
    with_image_suffix,
)
from libradet.data.formats.reading import Splits, list_files
from libradet.data.formats.writing import SplitToWrite, Writer, format_number, merged_classes, shortest_decimals
from libradet.data.formats.yolo_config import YoloConfig, class_names, read_config
from libradet.data.image_headers import apply_exif_to_points, read_header
from libradet.data.records import Dataset, ImageRecord, RawAnnotations
from libradet.data.segmentations import rounded_polygon
from libradet.data.validation.annotations import MIN_SIDE
from libradet.data.validation.resolve_paths import resolve_paths
from libradet.errors import UserError
from libradet.utils.atomic_io import read_text
from libradet.utils.text import counted, summarize_list

_NUM_FIELDS_WITH_SCORE = 6


def list_splits(root: Path) -> Splits:
    """Return the splits that :func:`read_config` names."""
    config = read_config(root)
    if config is None:
        return {}
    return {name: partial(_read_split, config, name) for name in config.splits}


def _read_split(config: YoloConfig, split: str) -> RawAnnotations:
    file, names = config.file, class_names(config)
    raw = RawAnnotations(file.parent, split, file, [file.parent], [], [], [], normalized=True)
    raw.categories = [{"id": i, "name": name} for i, name in names.items()]
    images = _list_images(config, split, raw.notes)
    label_files = [labels if (labels := _label_file(image)).is_file() else None for image in images]
    num_values = config.num_keypoint_values
    scored: list[str] = []
    for number, (image, labels) in enumerate(zip(images, label_files, strict=True), start=1):
        inside = image.is_relative_to(file.parent)
        raw.images.append({"id": number, "file_name": str(image.relative_to(file.parent) if inside else image)})
        if labels is not None:
            _read_labels(labels, number, raw.annotations, num_values, scored)
    raw.notes += _label_file_notes(images, label_files)
    if num_values:
        shape = config.settings["kpt_shape"]
        raw.notes.append(f"labels have keypoints (kpt_shape {shape}): only their boxes are used")
    if scored:
        raw.notes.append(
            f"{counted(len(scored), 'line has', 'lines have')} a sixth number, the score of a prediction "
            f"(save_conf): not read ({scored[0]})"
        )
    if _counts_from_one(raw):
        raise UserError(
            f"{file}: class numbers in the labels of {split} seem to count from 1 (none is 0, the largest is "
            f"{len(names)}), but names count from 0: write 'names' as a mapping that starts at 1, or correct the "
            "labels."
        )
    return raw


def _label_file_notes(images: Sequence[Path], label_files: Sequence[Path | None]) -> list[str]:
    """Return notes on label files of several images and of none, and on images without one."""
    images_of: dict[Path, dict[Path, None]] = {}
    for image, labels in zip(images, label_files, strict=True):
        if labels is not None:
            images_of.setdefault(labels, {})[image] = None
    notes = []
    if shared := [" and ".join(image.name for image in group) for group in images_of.values() if len(group) > 1]:
        notes.append(
            f"{counted(len(shared), 'label file belongs to', 'label files belong to')} several images, as "
            "only the ending of their names differs "
            f"({summarize_list(shared)}): each image has its boxes"
        )
    if alone := _labels_without_image({labels.parent: next(iter(group)).parent for labels, group in images_of.items()}):
        notes.append(
            f"{counted(len(alone), 'label file has', 'label files have')} no image: not used ({summarize_list(alone)})"
        )
    if num_unlabeled := label_files.count(None):
        notes.append(f"{counted(num_unlabeled, 'image has', 'images have')} no label file: used as background")
    return notes


def _labels_without_image(image_folders: Mapping[Path, Path]) -> list[str]:
    """Return the label files whose image is missing, or in no format that is read.

    Args:
        image_folders: folder of the images of each folder of labels; if they are one, text files may be anything.
    """
    names = []
    for folder, images in sorted(image_folders.items()):
        if folder != images:
            stems = {Path(name).stem for name in os.listdir(images) if is_image_name(name)} | {"classes"}
            files = list_files(folder, "*.txt")
            names += [file.name for file in files if file.stem not in stems]
    return names


def _counts_from_one(raw: RawAnnotations) -> bool:
    """Return whether class numbers are one too large, as SAHI and PyLabel write them."""
    used = {annotation["category_id"] for annotation in raw.annotations}
    numbers = [category["id"] for category in raw.categories]
    return numbers == list(range(len(numbers))) and len(numbers) in used and 0 not in used


def _list_images(config: YoloConfig, split: str, notes: list[str]) -> list[Path]:
    value = config.splits[split]
    entries = value if isinstance(value, list) else [value]
    images: list[Path] = []
    repeated: list[Path] = []
    for entry in entries:
        if not isinstance(entry, str):
            raise UserError(
                f"{config.file}: {split} must be a folder, a file with a list of images, or a list of these."
            )
        location = _resolve_entry(config, entry, split)
        if location.is_dir():
            images += list_images(location, repeated)
        else:
            images += _listed_images(config, location, notes)
    if repeated:
        notes.append(
            f"{counted(len(repeated), 'link leads', 'links lead')} to folders that are listed already: left "
            f"out ({repeated[0]})"
        )
    return images


def _listed_images(config: YoloConfig, file: Path, notes: list[str]) -> list[Path]:
    """Return the images of a list, whose lines may be paths of another machine or relative to several folders.

    A path that does not exist is matched by its last parts. So the label is that of the image that is used.
    """
    lines = [line for line in (line.strip() for line in read_text(file).splitlines()) if line]
    folders = list(dict.fromkeys([file.parent, config.root, config.file.parent]))
    located = {line: _existing_path(line, folders) for line in dict.fromkeys(lines)}
    others = [line for line, path in located.items() if path is None]
    if others:
        paths, _ = resolve_paths([line.replace("\\", "/") for line in others], folders)
        located |= dict(zip(others, paths, strict=True))
        matched = [line for line, path in zip(others, paths, strict=True) if os.path.isfile(path)]
        if matched:
            notes.append(
                f"{counted(len(matched), 'path does not', 'paths do not')} exist, matched by the end of the "
                f"path: {file.name} ({matched[0]})"
            )
    return [path for line in lines if (path := located[line]) is not None]


def _existing_path(line: str, folders: Sequence[Path]) -> Path | None:
    candidates = (folder / line.replace("\\", "/") for folder in folders)
    return next((path for path in candidates if os.path.isfile(path)), None)


def _resolve_entry(config: YoloConfig, entry: str, split: str) -> Path:
    """Return the location of an entry; exports often contain paths of the machine on which they were created."""
    root, path = config.file.parent, Path(entry.replace("\\", "/"))
    bare = Path(*[part for part in path.parts if part not in ("..", ".", path.anchor)])
    candidates = [config.root / path, root / path, root / bare, root / split / "images", root / "images" / split]
    if path.suffix == ".txt":
        candidates.insert(3, root / path.name)
    for candidate in candidates:
        if os.path.exists(candidate):
            return candidate
    searched = summarize_list(list(dict.fromkeys(candidates)))
    raise UserError(f"{config.file}: {split}: {summarize_list([entry])} does not exist (searched {searched}).")


def _label_file(image: Path) -> Path:
    """Return ``.../labels/a/b.txt`` for ``.../images/a/b.jpg`` (last "images" in the path), else next to the image."""
    beside = image.with_suffix(".txt")
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            labels = Path(*parts).with_suffix(".txt")
            return labels if labels.is_file() or not beside.is_file() else beside
    return beside


def _read_labels(
    file: Path, image_id: int, annotations: list[Any], num_keypoint_values: int, scored: list[str]
) -> None:
    """Read lines ``class cx cy w h``, the same with keypoints, or ``class x1 y1 x2 y2 x3 y3 ...`` (a polygon).

    Args:
        file: labels of an image.
        image_id: of the image.
        annotations: to extend.
        num_keypoint_values: numbers behind a box.
        scored: collects the lines that have a score, which have no box either.
    """
    text = read_text(file, errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        record = {"id": len(annotations) + 1, "image_id": image_id, "where": f"{file.name}:{number}"}
        annotations.append(record | _parse_label(line.split(), num_keypoint_values))
        if annotations[-1]["bbox"] is None and _has_score(line.split()):
            scored.append(record["where"])


def _has_score(fields: list[str]) -> bool:
    try:
        *_, score = [float(field) for field in fields]
    except ValueError:
        return False
    return len(fields) == _NUM_FIELDS_WITH_SCORE and 0 <= score <= 1


def _parse_label(fields: list[str], num_keypoint_values: int) -> dict[str, Any]:
    try:
        category, *numbers = [float(field) for field in fields]
    except ValueError:
        return {"category_id": fields[0], "bbox": None}
    if num_keypoint_values and len(numbers) == 4 + num_keypoint_values:
        numbers = numbers[:4]
    if len(numbers) == 4:
        cx, cy, w, h = numbers
        return {"category_id": category, "bbox": [cx - w / 2, cy - h / 2, w, h]}
    if num_keypoint_values or len(numbers) < 6 or len(numbers) % 2:
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
        polygons: write polygons in place of boxes, where there are some, and rectangles for the other objects of
            such an image.
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


def outlines_of(image: ImageRecord) -> list[Float64[ndarray, "V 2"] | None]:
    """Return the polygon of each object that is no crowd region; None where it has none that could be written."""
    return [polygon_of(image, i) for i in np.flatnonzero(~image.crowd)]


def _label_lines(image: ImageRecord, class_numbers: list[int], polygons: bool) -> list[str]:
    size = np.array([image.width, image.height], np.float64)
    rows = np.flatnonzero(~image.crowd)
    outlines = outlines_of(image) if polygons else [None] * len(rows)
    # Ultralytics accepts no label file with boxes and polygons.
    if all(ring is None for ring in outlines):
        values = list(_normalize_boxes(image.boxes[rows], size))
    else:
        rectangles = _normalize_corners(image.boxes[rows], size)[:, [0, 1, 2, 1, 2, 3, 0, 3]]
        values = [
            rectangle if ring is None else (ring / size).ravel().round(8)
            for ring, rectangle in zip(outlines, rectangles, strict=True)
        ]
    return [
        " ".join([str(class_numbers[image.labels[i]]), *map(format_number, own)])
        for i, own in zip(rows, values, strict=True)
    ]


def _normalize_boxes(boxes: Float32[ndarray, "N 4"], size: Float64[ndarray, " 2"]) -> Float64[ndarray, "N 4"]:
    """Return center, width and height as fractions of the image."""

    def read(values: Float64[ndarray, "N 4"]) -> Float64[ndarray, "N 4"]:
        low, sides = (values[:, :2] - values[:, 2:] / 2) * size, values[:, 2:] * size
        return np.clip(np.concatenate([low, low + sides], 1), 0, np.tile(size, 2))

    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    return shortest_decimals(np.concatenate([(low + high) / 2 / size, (high - low) / size], 1), read, boxes)


def _normalize_corners(boxes: Float32[ndarray, "N 4"], size: Float64[ndarray, " 2"]) -> Float64[ndarray, "N 4"]:
    """Return left, top, right and bottom as fractions of the image."""

    def read(values: Float64[ndarray, "N 4"]) -> Float64[ndarray, "N 4"]:
        low, sides = values[:, :2] * size, (values[:, 2:] - values[:, :2]) * size
        return np.clip(np.concatenate([low, low + sides], 1), 0, np.tile(size, 2))

    return shortest_decimals(boxes.astype(np.float64) / np.tile(size, 2), read, boxes)


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
