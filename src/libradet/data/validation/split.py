"""Validation of a split before training: damage is reported, repaired, skipped or refused."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from libradet.data.image_headers import MISSING, ImageHeader, read_headers
from libradet.data.records import Dataset, ImageRecord, RawAnnotations, id_order, normalize_id, own_id
from libradet.data.segmentations import parse_segmentation
from libradet.data.validation.annotations import AnnotationTable, build_annotation_table, validate_boxes
from libradet.data.validation.ids import describe_unusable_ids, report_ids
from libradet.data.validation.report import Report
from libradet.data.validation.resolve_paths import resolve_paths
from libradet.utils.gc import gc_disabled
from libradet.utils.text import counted, summarize_list

SIZE_TOLERANCE = 0.01
"""Sizes in the records may differ from the file's by this fraction (tools round) before boxes are refused."""

SMALL_AREA, LARGE_AREA = 32**2, 96**2
"""COCO's limits of small and large objects, in square pixels."""


class Classes(NamedTuple):
    """Own ids and names by label; label by every form of the id that records may use."""

    ids: list[int | str]
    names: list[str]
    labels: dict[Any, int]


class ListedImage(NamedTuple):
    """An image as listed: its own id, the id in comparable form, the record, the file and its header."""

    id: int | str
    key: Any
    record: dict[str, Any]
    path: Path
    header: ImageHeader


@gc_disabled()
def validate_split(
    raw: RawAnnotations,
    *,
    training: bool = True,
    skip_broken: bool = False,
    masks: bool = True,
    decode: bool = False,
    records: bool = False,
) -> tuple[Dataset, Report]:
    """Return the valid images of a split, and the report.

    Args:
        raw: the split as read.
        training: a split without any box is an error; otherwise only a warning.
        skip_broken: skip images that are missing or damaged, instead of refusing the split.
        masks: keep segmentations.
        decode: decode every image completely instead of reading its header (slow, detects all damage).
        records: keep the records as well, with their other fields.
    """
    report = Report(notes=list(raw.notes), unused=list(raw.unused))
    report_ids(raw, report)
    classes = _validate_classes(raw, report)
    listed, skipped = _validate_images(raw, report, skip_broken, decode)
    sizes, apply_exif = _validate_sizes(listed, report)
    image_rows = {image.key: row for row, image in enumerate(listed)}
    table = build_annotation_table(raw.annotations, image_rows, skipped, classes.labels)
    table = validate_boxes(table, sizes, [image.path.name for image in listed], raw.normalized, report)
    images = _build_images(listed, sizes, apply_exif, table, masks, raw.normalized, records, report)
    _count(report, images, table, classes, training)
    return Dataset(raw.root, raw.split, images, classes.ids, classes.names), report


def _validate_classes(raw: RawAnnotations, report: Report) -> Classes:
    names: dict[Any, str] = {}
    own_ids: dict[Any, int | str] = {}
    without_id, conflicting = [], []
    for position, category in enumerate(raw.categories):
        key = normalize_id(category.get("id")) if isinstance(category, dict) else None
        if key is None:
            without_id.append((f"categories[{position}]", category))
            continue
        name = str(category.get("name") or key)
        own_ids.setdefault(key, own_id(category["id"]))
        if key in names and names[key] != name:
            conflicting.append(f"category id {key} is both {names[key]!r} and {name!r}")
        names.setdefault(key, name)
    if without_id:
        places = describe_unusable_ids(without_id)
        report.errors.append(f"{raw.source}: categories without a usable id: {places}: set it to an integer or text.")
    if conflicting:
        report.errors.append(f"{raw.source}: {summarize_list(conflicting)}: make ids unique.")
    if not names and not report.errors:
        report.errors.append(f"{raw.source}: 'categories' is empty: list the classes as {{id, name}}.")
    keys = sorted(names, key=id_order)
    labels = {key: label for label, key in enumerate(keys)}
    ids = [own_ids[key] for key in keys]
    return Classes(ids, _make_names_unique(keys, [names[key] for key in keys], report), labels)


def _make_names_unique(keys: list[Any], names: list[str], report: Report) -> list[str]:
    similar: dict[str, dict[str, None]] = defaultdict(dict)
    for name in names:
        similar["".join(name.casefold().split())][name] = None
    if alike := [name for group in similar.values() if len(group) > 1 for name in group]:
        report.warnings.append(
            f"classes whose names differ by case or spaces only ({summarize_list(alike)}): rename them in the "
            "annotations if they are one class."
        )
    counts = Counter(names)
    duplicates = [name for name, count in counts.items() if count > 1]
    if duplicates:
        report.warnings.append(
            f"several categories share a name ({summarize_list(duplicates)}): their ids are appended."
        )
    return [name if counts[name] == 1 else f"{name} ({key})" for key, name in zip(keys, names, strict=True)]


def _validate_images(
    raw: RawAnnotations, report: Report, skip_broken: bool, decode: bool
) -> tuple[list[ListedImage], set[Any]]:
    """Return images with a valid file, and the keys of those skipped."""
    records = _unique_image_records(raw, report)
    names = [str(record["file_name"]) for record in records.values()]
    paths, approximate = resolve_paths(names, raw.image_folders)
    headers = read_headers(paths, decode)
    if approximate:
        examples = summarize_list(approximate, 3)
        report.notes.append(
            f"{counted(len(approximate), 'image')} matched under a slightly different name ({examples})"
        )
    _report_broken_files(raw, names, headers, report, skip_broken)
    ids = [own_id(record["id"]) for record in records.values()]
    rows = zip(ids, records.items(), paths, headers, strict=True)
    listed = [ListedImage(i, key, record, path, head) for i, (key, record), path, head in rows if not head.problem]
    _report_duplicate_files([image.path for image in listed], raw.normalized, report)
    return listed, set(records) - {image.key for image in listed}


def _unique_image_records(raw: RawAnnotations, report: Report) -> dict[Any, dict[str, Any]]:
    records: dict[Any, dict[str, Any]] = {}
    unusable, repeated, conflicting = [], [], []
    for position, record in enumerate(raw.images):
        key = normalize_id(record.get("id")) if isinstance(record, dict) else None
        if key is None or not isinstance(record.get("file_name"), str) or not record["file_name"]:
            unusable.append((f"images[{position}]", record))
        elif key not in records:
            records[key] = record
        elif records[key]["file_name"] == record["file_name"]:
            repeated.append(f"id {key} ({record['file_name']})")
        else:
            conflicting.append(f"id {key} ({records[key]['file_name']}, {record['file_name']})")
    if unusable:
        report.errors.append(
            f"{raw.source}: {counted(len(unusable), 'image has', 'images have')} no usable id or file_name: "
            f"{describe_unusable_ids(unusable)}."
        )
    if conflicting:
        report.errors.append(
            f"{raw.source}: image ids used for two images, make them unique: {summarize_list(conflicting)}."
        )
    report.skip("image listed twice", repeated)
    return records


def _report_broken_files(
    raw: RawAnnotations, names: list[str], headers: list[ImageHeader], report: Report, skip_broken: bool
) -> None:
    problems = [(name, header.problem) for name, header in zip(names, headers, strict=True) if header.problem]
    missing = [name for name, problem in problems if problem == MISSING]
    damaged = [f"{name} {problem}" for name, problem in problems if problem != MISSING]
    report.skip("image file is missing", missing, keep_all=True)
    report.skip("image file is damaged", damaged, keep_all=True)
    hint = "repair them, remove them from the list, or skip broken images (--skip_broken)"
    places = summarize_list(raw.image_folders, 3) or str(raw.root)
    texts = []
    if missing:
        texts.append(
            f"{len(missing)} of {len(names)} image files are missing in {places}: "
            f"{summarize_list(missing, 20)}; {hint}."
        )
    if damaged:
        texts.append(f"{len(damaged)} of {len(names)} image files are damaged: {summarize_list(damaged, 20)}; {hint}.")
    (report.warnings if skip_broken else report.errors).extend(texts)


def _report_duplicate_files(paths: list[Path], from_label_files: bool, report: Report) -> None:
    duplicates = [path.name for path, count in Counter(paths).items() if count > 1]
    if not duplicates:
        return
    examples = summarize_list(duplicates)
    if from_label_files:
        report.warnings.append(
            f"{len(duplicates)} image files are listed several times ({examples}): each counts as several images."
        )
    else:
        report.warnings.append(
            f"{len(duplicates)} image files are listed under several ids ({examples}): each copy lacks the boxes of "
            "the other."
        )


def _validate_sizes(listed: list[ListedImage], report: Report) -> tuple[np.ndarray, list[bool]]:
    """Return width and height of every image [N, 2], and whether its EXIF rotation applies."""
    sizes, apply_exif = [], []
    findings: dict[str, list[str]] = defaultdict(list)
    for image in listed:
        header, annotated = image.header, _annotated_size(image.record)
        difference = _compare_sizes(annotated, header)
        size = (header.width, header.height) if difference == "unrotated" else header.upright_size
        sizes.append(size)
        apply_exif.append(difference != "unrotated")
        if difference == "other":
            text = f"{image.path.name} is {size[0]}x{size[1]}, annotated as {annotated[0]:g}x{annotated[1]:g}"
            findings[difference].append(text)
        elif difference:
            findings[difference].append(image.path.name)
    _report_sizes(findings, report)
    return np.array(sizes, np.float64).reshape(-1, 2), apply_exif


def _annotated_size(record: dict[str, Any]) -> tuple[float, float]:
    """Return width and height in the record; 0 if one is absent or invalid."""
    values = []
    for key in ("width", "height"):
        try:
            value = float(record.get(key) or 0)
        except (TypeError, ValueError, OverflowError):
            value = 0.0
        values.append(value if 0 < value < float("inf") else 0.0)
    return (values[0], values[1]) if all(values) else (0.0, 0.0)


def _compare_sizes(annotated: tuple[float, float], header: ImageHeader) -> str:
    """Return "" if equal, else "absent", "unrotated" (the size before EXIF rotation), "near" or "other"."""
    size = header.upright_size
    if annotated == size:
        return ""
    if annotated == (0.0, 0.0):
        return "absent"
    if annotated == (header.width, header.height):
        return "unrotated"
    is_near = all(abs(a - b) <= max(1.0, SIZE_TOLERANCE * b) for a, b in zip(annotated, size, strict=True))
    return "near" if is_near else "other"


def _report_sizes(findings: dict[str, list[str]], report: Report) -> None:
    if names := findings["absent"]:
        report.notes.append(
            f"{counted(len(names), 'image has', 'images have')} no annotated width or height: read from the files"
        )
    if names := findings["unrotated"]:
        report.warnings.append(
            f"{counted(len(names), 'image has', 'images have')} an EXIF rotation that the annotations "
            f"ignore ({summarize_list(names)}): "
            "their boxes are assumed to be in the unrotated image."
        )
    if names := findings["near"]:
        report.warnings.append(
            f"{counted(len(names), 'image differs', 'images differ')} by some pixels from the annotated "
            f"size ({summarize_list(names)})."
        )
    if names := findings["other"]:
        report.errors.append(
            f"{counted(len(names), 'image differs', 'images differ')} from the annotated size "
            f"({summarize_list(names, 3)}): boxes would be wrong. "
            "Correct width and height, or remove them if the boxes are in the files' pixels."
        )


def _build_images(
    listed: list[ListedImage],
    sizes: np.ndarray,
    apply_exif: list[bool],
    table: AnnotationTable,
    masks: bool,
    normalized: bool,
    keep_records: bool,
    report: Report,
) -> list[ImageRecord]:
    """Group boxes by image."""
    order = np.argsort(table.image_row, kind="stable")
    starts = np.searchsorted(table.image_row[order], np.arange(len(listed) + 1))
    boxes, labels = table.boxes[order].astype(np.float32), table.label[order]
    crowd, area, ids = table.crowd[order], table.area[order], table.id[order]
    records = [table.records[i] for i in order] if masks else []
    invalid: list[str] = []
    images = []
    for row, image in enumerate(listed):
        rows = slice(starts[row], starts[row + 1])
        width, height = (int(side) for side in sizes[row])
        segmentations = None
        if masks:
            segmentations = [parse_segmentation(r, width, height, normalized, invalid) for r in records[rows]]
        kept_records = (image.record, records[rows]) if keep_records else None
        ground_truth = (boxes[rows], labels[rows], crowd[rows], area[rows], ids[rows], segmentations)
        images.append(ImageRecord(image.id, image.path, width, height, *ground_truth, apply_exif[row], kept_records))
    if invalid:
        report.warnings.append(
            f"{len(invalid)} segmentations cannot be used, only their boxes are ({summarize_list(invalid)})."
        )
    return images


def _count(report: Report, images: list[ImageRecord], table: AnnotationTable, classes: Classes, training: bool) -> None:
    report.images, report.boxes = len(images), len(table.image_row)
    counts = np.bincount(table.label, minlength=len(classes.ids))
    report.classes = dict(zip(classes.names, counts.tolist(), strict=True))
    small, large = table.area < SMALL_AREA, table.area >= LARGE_AREA
    by_size = {"small": small, "medium": ~small & ~large, "large": large}
    report.sizes = {name: int(chosen.sum()) for name, chosen in by_size.items()}
    empty = sum(len(image.labels) == 0 for image in images)
    num_crowd = int(table.crowd.sum())
    if num_crowd:
        report.notes.append(f"{num_crowd} of {report.boxes} objects are iscrowd: neither targets nor negatives")
    if not images and not report.errors:
        report.errors.append("there are no images.")
    elif not (~table.crowd).any():
        text = "there are no boxes to train on" if training else "there is no ground truth: nothing can be evaluated"
        crowd = f"; all {num_crowd} objects are iscrowd, neither targets nor negatives" if num_crowd else ""
        counts = f"{counted(len(images), 'image')}, 0 usable boxes{crowd}"
        (report.errors if training else report.warnings).append(f"{text} ({counts}).")
    elif empty:
        report.notes.append(
            f"{counted(empty, 'image has', 'images have')} no box: background, where detections count as "
            "false positives"
        )
    unused = [name for name, count in report.classes.items() if count == 0]
    if unused and report.boxes:
        report.notes.append(f"{len(unused)} of {len(classes.ids)} classes have no box ({summarize_list(unused)})")
