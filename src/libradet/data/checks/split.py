"""One pass over a split before any training: what is damaged is named, repaired, left out or refused."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from libradet.data.checks.annotations import Columns, check_boxes, read_columns
from libradet.data.checks.report import Report, few
from libradet.data.headers import Header, read_headers
from libradet.data.layouts.locate import locate
from libradet.data.records import Dataset, ImageRecord, Raw, plain_id
from libradet.data.segmentations import compact
from libradet.utils.gc import gc_disabled

SIZE_TOLERANCE = 0.01
"""Sizes in the records may differ from the file's by this fraction (tools round) before boxes are distrusted."""


class Classes(NamedTuple):
    """Own ids and names by label; label by every form of the id that records may use."""

    ids: list[int]
    names: list[str]
    labels: dict[Any, int]


class Listed(NamedTuple):
    """An image as listed: its own id (a number), the id as written, the file and its header."""

    id: int
    key: Any
    record: dict[str, Any]
    path: Path
    header: Header


@gc_disabled()
def check(
    raw: Raw,
    *,
    training: bool = True,
    skip_broken: bool = False,
    masks: bool = True,
    decode: bool = False,
    records: bool = False,
) -> tuple[Dataset, Report]:
    """Checked images of a split, and what there was to say about it.

    Args:
        training: a split without any box is an error; otherwise only a warning.
        skip_broken: leave out images that are missing or damaged, instead of refusing the split.
        masks: keep segmentations.
        decode: decode every image as a whole instead of reading its header (slow, finds all damage).
        records: keep the records, too, whatever else they hold.
    """
    report = Report(notes=list(raw.notes))
    _name_text_ids(raw, report)
    classes = _check_classes(raw, report)
    listed, dropped = _check_images(raw, report, skip_broken, decode)
    sizes, upright = _check_sizes(listed, report)
    columns = read_columns(raw.annotations, {p.key: row for row, p in enumerate(listed)}, dropped, classes.labels)
    columns = check_boxes(columns, sizes, [p.path.name for p in listed], raw.relative, report)
    images = _assemble(listed, sizes, upright, columns, masks, raw.relative, records, report)
    _count(report, images, columns, classes, training)
    return Dataset(raw.root, raw.split, images, classes.ids, classes.names), report


def _check_classes(raw: Raw, report: Report) -> Classes:
    found: dict[Any, str] = {}
    without, double = [], []
    for position, category in enumerate(raw.categories):
        key = plain_id(category.get("id")) if isinstance(category, dict) else None
        if key is None:
            without.append(f"categories[{position}]")
            continue
        name = str(category.get("name") or key)
        if key in found and found[key] != name:
            double.append(f"category id {key} is both {found[key]!r} and {name!r}")
        found.setdefault(key, name)
    if without:
        report.errors.append(f"{raw.source}: {few(without)} has no usable id: give it an integer.")
    if double:
        report.errors.append(f"{raw.source}: {few(double)}: make ids unique.")
    if not found and not report.errors:
        report.errors.append(f"{raw.source}: 'categories' is empty: list the classes as {{id, name}}.")
    keys = sorted(found, key=lambda key: (isinstance(key, str), key))
    ids = keys
    if any(isinstance(key, str) for key in keys):
        ids = list(range(1, len(keys) + 1))
        report.warnings.append(f"category ids are not numbers ({few(keys)}): numbered 1 to {len(keys)} in results.")
    labels = {key: label for label, key in enumerate(keys)}
    return Classes(ids, _distinct_names(keys, [found[key] for key in keys], report), labels)


def _name_text_ids(raw: Raw, report: Report) -> None:
    """Ids that are digits in quotes are read as numbers, which other tools may not do."""
    parts = (("images", "id"), ("categories", "id"), ("annotations", "image_id"), ("annotations", "category_id"))
    for part, key in parts:
        values = (record.get(key) for record in getattr(raw, part) if isinstance(record, dict))
        texts = [value for value in values if type(value) is str and type(plain_id(value)) is int]
        if texts:
            report.notes.append(
                f"{key} is text such as {texts[0]!r} in {len(texts)} of {part}: read as numbers; other tools may not"
            )


def _distinct_names(keys: list[Any], names: list[str], report: Report) -> list[str]:
    counts = Counter(names)
    doubled = [name for name, count in counts.items() if count > 1]
    if doubled:
        report.warnings.append(f"several categories share a name ({few(doubled)}): told apart by their ids.")
    return [name if counts[name] == 1 else f"{name} ({key})" for key, name in zip(keys, names, strict=True)]


def _check_images(raw: Raw, report: Report, skip_broken: bool, decode: bool) -> tuple[list[Listed], set[Any]]:
    """Images whose file is fine, and the keys of those left out."""
    records = _unique_records(raw, report)
    names = [str(record["file_name"]) for record in records.values()]
    paths, renamed = locate(names, raw.folders)
    headers = read_headers(paths, decode)
    if renamed:
        report.notes.append(f"{len(renamed)} images found under a slightly different name ({few(renamed, 3)})")
    _name_broken(raw, names, headers, report, skip_broken)
    ids = _numbers(list(records), report)
    rows = zip(ids, records.items(), paths, headers, strict=True)
    listed = [Listed(i, key, record, path, head) for i, (key, record), path, head in rows if not head.problem]
    _name_doubles([p.path for p in listed], report)
    return listed, set(records) - {p.key for p in listed}


def _unique_records(raw: Raw, report: Report) -> dict[Any, dict[str, Any]]:
    records: dict[Any, dict[str, Any]] = {}
    unusable, doubled, clashing = [], [], []
    for position, record in enumerate(raw.images):
        key = plain_id(record.get("id")) if isinstance(record, dict) else None
        if key is None or not isinstance(record.get("file_name"), str) or not record["file_name"]:
            unusable.append(f"images[{position}]")
        elif key not in records:
            records[key] = record
        elif records[key]["file_name"] == record["file_name"]:
            doubled.append(f"id {key} ({record['file_name']})")
        else:
            clashing.append(f"id {key} ({records[key]['file_name']}, {record['file_name']})")
    if unusable:
        report.errors.append(f"{raw.source}: {len(unusable)} images lack an id or a file_name: {few(unusable)}.")
    if clashing:
        report.errors.append(f"{raw.source}: image ids used for two images, make them unique: {few(clashing)}.")
    report.skip("image listed twice", doubled)
    return records


def _name_broken(raw: Raw, names: list[str], headers: list[Header], report: Report, skip_broken: bool) -> None:
    missing = [name for name, header in zip(names, headers, strict=True) if header.problem == "is missing"]
    damaged = [
        f"{name} {header.problem}"
        for name, header in zip(names, headers, strict=True)
        if header.problem and header.problem != "is missing"
    ]
    report.skip("image file is missing", missing, complete=True)
    report.skip("image file is damaged", damaged, complete=True)
    hint = "put them right, take them off the list, or have broken images skipped"
    places = few(raw.folders, 3) or str(raw.root)
    troubles = []
    if missing:
        troubles.append(
            f"{len(missing)} of {len(names)} image files are missing in {places}: {few(missing, 20)}; {hint}."
        )
    if damaged:
        troubles.append(f"{len(damaged)} of {len(names)} image files are damaged: {few(damaged, 20)}; {hint}.")
    (report.warnings if skip_broken else report.errors).extend(troubles)


def _numbers(keys: list[Any], report: Report) -> list[int]:
    named = [key for key in keys if isinstance(key, str)]
    if not named:
        return keys
    report.warnings.append(f"image ids are not numbers ({few(named, 3)}): numbered 1 to {len(keys)} in results.")
    return list(range(1, len(keys) + 1))


def _name_doubles(paths: list[Path], report: Report) -> None:
    doubled = [path.name for path, count in Counter(paths).items() if count > 1]
    if doubled:
        report.warnings.append(
            f"{len(doubled)} image files are listed under several ids ({few(doubled)}): "
            "each copy lacks the boxes of the other."
        )


def _check_sizes(listed: list[Listed], report: Report) -> tuple[np.ndarray, list[bool]]:
    """Width and height of every image [N, 2], and whether its EXIF rotation applies."""
    sizes, upright = [], []
    found: dict[str, list[str]] = defaultdict(list)
    for image in listed:
        told = _told_size(image.record)
        kind = _compare(told, image.header)
        size = (image.header.width, image.header.height) if kind == "unrotated" else image.header.upright_size
        sizes.append(size)
        upright.append(kind != "unrotated")
        if kind == "other":
            found[kind].append(f"{image.path.name} is {size[0]}x{size[1]}, the records say {told[0]:g}x{told[1]:g}")
        elif kind:
            found[kind].append(image.path.name)
    _name_sizes(found, report)
    return np.array(sizes, np.float64).reshape(-1, 2), upright


def _told_size(record: dict[str, Any]) -> tuple[float, float]:
    """Width and height in the records; 0 if there is no sensible one."""
    values = []
    for key in ("width", "height"):
        try:
            value = float(record.get(key) or 0)
        except (TypeError, ValueError, OverflowError):
            value = 0.0
        values.append(value if 0 < value < float("inf") else 0.0)
    return (values[0], values[1]) if all(values) else (0.0, 0.0)


def _compare(told: tuple[float, float], header: Header) -> str:
    size = header.upright_size
    if told == size:
        return ""
    if told == (0.0, 0.0):
        return "untold"
    if told == (header.width, header.height):
        return "unrotated"
    near = all(abs(a - b) <= max(1.0, SIZE_TOLERANCE * b) for a, b in zip(told, size, strict=True))
    return "near" if near else "other"


def _name_sizes(found: dict[str, list[str]], report: Report) -> None:
    if names := found["untold"]:
        report.notes.append(f"{len(names)} images have no width or height in the records: taken from the files")
    if names := found["unrotated"]:
        report.warnings.append(
            f"{len(names)} images carry an EXIF rotation that the records do not know of ({few(names)}): "
            "their boxes are taken to belong to the unrotated pixels."
        )
    if names := found["near"]:
        report.warnings.append(
            f"{len(names)} images differ by some pixels from the size in the records ({few(names)})."
        )
    if names := found["other"]:
        report.errors.append(
            f"{len(names)} images have another size than the records say ({few(names, 3)}): boxes would be wrong. "
            "Correct width and height, or remove them if the boxes are in the files' pixels."
        )


def _assemble(
    listed: list[Listed],
    sizes: np.ndarray,
    upright: list[bool],
    columns: Columns,
    masks: bool,
    relative: bool,
    keep_records: bool,
    report: Report,
) -> list[ImageRecord]:
    """Boxes sorted to their images."""
    order = np.argsort(columns.row, kind="stable")
    starts = np.searchsorted(columns.row[order], np.arange(len(listed) + 1))
    boxes, labels = columns.boxes[order].astype(np.float32), columns.label[order]
    crowd, area, ids = columns.crowd[order], columns.area[order], columns.id[order]
    records = [columns.records[i] for i in order] if masks else []
    unfit: list[str] = []
    images = []
    for row, image in enumerate(listed):
        part = slice(starts[row], starts[row + 1])
        width, height = (int(side) for side in sizes[row])
        kept = [compact(r, width, height, relative, unfit) for r in records[part]] if masks else None
        own = (image.record, records[part]) if keep_records else None
        fields = (boxes[part], labels[part], crowd[part], area[part], ids[part], kept, upright[row], own)
        images.append(ImageRecord(image.id, image.path, width, height, *fields))
    if unfit:
        report.warnings.append(f"{len(unfit)} segmentations cannot be used, only their boxes are ({few(unfit)}).")
    return images


def _count(report: Report, images: list[ImageRecord], columns: Columns, classes: Classes, training: bool) -> None:
    report.images, report.boxes = len(images), len(columns.row)
    counts = np.bincount(columns.label, minlength=len(classes.ids))
    report.classes = dict(zip(classes.names, counts.tolist(), strict=True))
    small, large = columns.area < 32**2, columns.area >= 96**2
    tally = {"small": small, "medium": ~small & ~large, "large": large}
    report.sizes = {name: int(chosen.sum()) for name, chosen in tally.items()}
    bare = sum(len(p.labels) == 0 for p in images)
    if not images and not report.errors:
        report.errors.append("there are no images.")
    elif not (~columns.crowd).any():
        text = "there are no boxes to train on" if training else "there is no ground truth: nothing can be measured"
        (report.errors if training else report.warnings).append(f"{text} ({len(images)} images, 0 usable boxes).")
    elif bare:
        report.notes.append(f"{bare} images have no box: background, false detections there count")
    unused = [name for name, count in report.classes.items() if count == 0]
    if unused and report.boxes:
        report.notes.append(f"{len(unused)} of {len(classes.ids)} classes have no box ({few(unused)})")
