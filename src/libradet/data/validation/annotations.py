"""Table of the annotations of a split, and validation of its boxes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped
from numpy import ndarray

from libradet.data.records import describe_invalid_id, has_lost_digits, normalize_id, own_id
from libradet.data.segmentations import enclosing_box
from libradet.data.validation.report import Report
from libradet.utils.text import counted, summarize_list

UNKNOWN_IMAGE, SKIPPED_IMAGE = -1, -2
"""Image rows of annotations whose image is not listed, and whose image was skipped."""

NO_ID = int(np.iinfo(np.int64).min)
"""Id of annotations that have none."""

MIN_SIDE = 0.01
"""Pixels; a box with a smaller side counts as empty."""


@dataclass(frozen=True, eq=False)
class AnnotationTable:
    """Annotations, one per row.

    Attributes:
        records: as in the file.
        image_row: of the image, or UNKNOWN_IMAGE, SKIPPED_IMAGE.
        label: -1 where the category is unknown.
        boxes: xywh as read, NaN where not four numbers; xyxy in pixels once validated.
        crowd: regions that hold many objects.
        area: NaN where absent.
        id: own, NO_ID where absent; objects instead of int64 where some are text or exceed it.
        has_box: whether the box was four numbers.
    """

    records: list[Any]
    image_row: Int64[ndarray, " N"]
    label: Int64[ndarray, " N"]
    boxes: Float64[ndarray, "N 4"]
    crowd: Bool[ndarray, " N"]
    area: Float64[ndarray, " N"]
    id: Shaped[ndarray, " N"]
    has_box: Bool[ndarray, " N"]

    def select(self, keep: Bool[ndarray, " N"]) -> "AnnotationTable":
        """Return the rows to keep."""
        if keep.all():
            return self
        records = [record for record, kept in zip(self.records, keep, strict=True) if kept]
        arrays = {k: v[keep] for k, v in vars(self).items() if isinstance(v, ndarray)}
        return replace(self, records=records, **arrays)


def build_annotation_table(
    records: list[Any], image_rows: dict[Any, int], skipped_images: set[Any], labels: dict[Any, int]
) -> AnnotationTable:
    """Return annotations as a table.

    Args:
        records: annotations as read.
        image_rows: row of each image by its id in canonical form.
        skipped_images: ids of skipped images in canonical form.
        labels: label of each category by its id in canonical form.
    """
    records = [record if isinstance(record, dict) else {} for record in records]
    image_row = _resolve_ids(records, "image_id", image_rows | dict.fromkeys(skipped_images, SKIPPED_IMAGE))
    label = _resolve_ids(records, "category_id", labels)
    boxes, has_box = _read_boxes(records)
    crowd = np.array([_to_flag(r.get("iscrowd")) or _to_flag(r.get("ignore")) for r in records], bool)
    area = np.array([_to_number(r.get("area")) for r in records], np.float64)
    ids = _id_array([_own_id_of(r.get("id")) for r in records])
    return AnnotationTable(records, image_row, label, boxes, crowd, area, ids, has_box)


def validate_boxes(
    table: AnnotationTable, sizes: Float64[ndarray, "I 2"], files: list[str], normalized: bool, report: Report
) -> AnnotationTable:
    """Return the rows with valid boxes, in xyxy pixels inside their image.

    Args:
        table: annotations as read.
        sizes: width and height of the images.
        files: names of the image files.
        normalized: boxes are fractions of the image.
        report: collects what was skipped or changed.
    """

    def name(i: int) -> str:
        record, row = table.records[i], table.image_row[i]
        location = f" in {files[row]}" if row >= 0 else f" of image {record.get('image_id')!r}"
        return record.get("where") or f"annotation {record.get('id', f'number {i + 1}')}{location}"

    def skip(reason: str, invalid: Bool[ndarray, " N"]) -> None:
        nonlocal table
        report.skip(reason, [name(int(i)) for i in np.flatnonzero(invalid)])
        table = table.select(~invalid)

    skip("box of an image that is not listed", table.image_row == UNKNOWN_IMAGE)
    skip("box of a skipped image", table.image_row == SKIPPED_IMAGE)
    _refuse_unknown_categories(table, name, report)
    skip("box of an unknown category", table.label < 0)
    skip("box is not four numbers", ~table.has_box)
    skip("box with a NaN or infinite coordinate", np.logical_not(np.all(np.isfinite(table.boxes), axis=1)))
    skip("box without area", np.any(table.boxes[:, 2:] <= 0, axis=1))
    scale = np.tile(sizes, 2)[table.image_row]
    _detect_other_box_formats(table.boxes, scale, normalized, report)
    table = replace(table, boxes=xywh_to_xyxy(table.boxes * scale if normalized else table.boxes))
    clipped = np.clip(table.boxes, 0, scale)
    sides = clipped[:, 2:] - clipped[:, :2]
    _report_clipped(table, clipped, name, report)
    area = _areas(table, sides, normalized)
    table = replace(table, boxes=clipped, area=area)
    outside = np.any(sides < MIN_SIDE, axis=1)
    skip("box outside its image", outside)
    skip("box listed twice", _repeated_ids(table))
    return replace(table, id=_make_ids_unique(table, report))


def xywh_to_xyxy(boxes: Float64[ndarray, "N 4"]) -> Float64[ndarray, "N 4"]:
    """Convert x, y, width, height to the two corners."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def _resolve_ids(records: list[dict], key: str, table: dict[Any, int]) -> Int64[ndarray, " N"]:
    def id_of(value: Any) -> int:
        canonical = value if type(value) is int else normalize_id(value)
        return UNKNOWN_IMAGE if canonical is None else table.get(canonical, UNKNOWN_IMAGE)

    return np.fromiter((id_of(r.get(key)) for r in records), np.int64, len(records))


def _read_boxes(records: list[dict]) -> tuple[Float64[ndarray, "N 4"], Bool[ndarray, " N"]]:
    try:
        boxes = np.array([r["bbox"] for r in records], np.float64)
    except (KeyError, ValueError, TypeError, OverflowError):
        boxes = np.empty(0)
    if boxes.shape == (len(records), 4):
        return boxes, np.ones(len(records), bool)
    rows = [_read_box(r) for r in records]
    has_box = np.array([row is not None for row in rows], bool)
    return np.array([row or [np.nan] * 4 for row in rows], np.float64).reshape(-1, 4), has_box


def _read_box(record: dict) -> list[float] | None:
    """Return four numbers (or their text), or the box around the segmentation if there is no box."""
    box = record.get("bbox")
    if box is None or box == []:
        return enclosing_box(record.get("segmentation"))
    if not isinstance(box, list | tuple) or len(box) != 4 or any(isinstance(v, bool) for v in box):
        return None
    try:
        return [float("nan") if value is None else float(value) for value in box]
    except (TypeError, ValueError, OverflowError):
        return None


def _own_id_of(value: Any) -> int | str:
    if type(value) is int and NO_ID < value < -NO_ID:
        return value
    return NO_ID if normalize_id(value) is None or value == "" else own_id(value)


def _id_array(ids: list[int | str]) -> Shaped[ndarray, " N"]:
    """Return ids as int64; as objects if that would change one."""
    if all(type(i) is int and NO_ID <= i < -NO_ID for i in ids):
        return np.array(ids, np.int64)
    objects = np.empty(len(ids), object)
    objects[:] = ids
    return objects


def _number_equal_ids(ids: Shaped[ndarray, " N"]) -> Int64[ndarray, " N"]:
    """Return a number for each id, the same for equal ones."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(normalize_id(i), len(numbers)) for i in ids.tolist()], np.int64)


def _to_flag(value: Any) -> bool:
    return value in (1, "1", "true", "True")


def _to_number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _refuse_unknown_categories(table: AnnotationTable, name: Callable[[int], str], report: Report) -> None:
    unknown = np.flatnonzero(table.label < 0)
    if len(unknown):
        written = (table.records[i].get("category_id") for i in unknown)
        ids = sorted({str(value if normalize_id(value) is None else normalize_id(value)) for value in written})
        report.errors.append(
            f"{counted(len(unknown), 'annotation has', 'annotations have')} category ids that 'categories' "
            f"does not list ({summarize_list(ids)}): "
            f"{summarize_list([name(int(i)) for i in unknown])}. Add the category or remove them."
        )


def _detect_other_box_formats(
    boxes: Float64[ndarray, "N 4"], scale: Float64[ndarray, "N 4"], normalized: bool, report: Report
) -> None:
    """Report boxes in another convention, which would train without an error, on wrong boxes."""
    if normalized:
        if len(boxes) and (np.abs(boxes).max(1) > 2).mean() > 0.5:
            report.errors.append("boxes should be fractions of the image, most are far above 1: are they in pixels?")
        return
    if len(boxes) and boxes.max() <= 1.0 and scale.min() > 4:
        report.errors.append("no box exceeds one pixel: are they fractions of the image? They must be in pixels.")
    beyond = (xywh_to_xyxy(boxes) > scale + 1).any(1)
    could_be_xyxy = (boxes[:, 2:] > boxes[:, :2]).all(1) & (boxes <= scale + 1).all(1)
    if len(boxes) and beyond.mean() > 0.5 and could_be_xyxy.all():
        report.errors.append(
            f"{beyond.sum()} of {len(boxes)} boxes exceed their image, none would if they were x1, y1, x2, y2: "
            "COCO's bbox is x, y, width, height. Convert them."
        )


def _report_clipped(
    table: AnnotationTable, clipped: Float64[ndarray, "N 4"], name: Callable[[int], str], report: Report
) -> None:
    beyond = np.abs(table.boxes - clipped).max(1, initial=0)
    inside = (clipped[:, 2:] - clipped[:, :2] >= MIN_SIDE).all(1)
    far, near = inside & (beyond > 1), inside & (beyond > 0.01) & (beyond <= 1)
    if far.any():
        examples = summarize_list([name(int(i)) for i in np.flatnonzero(far)])
        report.warnings.append(
            f"{counted(far.sum(), 'box exceeds', 'boxes exceed')} the image: clipped to it ({examples})."
        )
    if near.any():
        report.notes.append(
            f"{counted(near.sum(), 'box exceeds', 'boxes exceed')} the image by at most one pixel: clipped"
        )


def _areas(table: AnnotationTable, sides: Float64[ndarray, "N 2"], normalized: bool) -> Float64[ndarray, " N"]:
    """Return areas as annotated, but at most that of a clipped box; areas of boxes where absent."""
    width, height = (table.boxes[:, 2:] - table.boxes[:, :2]).T
    inside = sides.prod(1)
    annotated = np.zeros(len(inside), bool) if normalized else np.isfinite(table.area) & (table.area > 0)
    clipped = inside < width * height * (1 - 1e-9)
    return np.where(annotated, np.where(clipped, np.minimum(table.area, inside), table.area), inside)


def _repeated_ids(table: AnnotationTable) -> Bool[ndarray, " N"]:
    """Return second and later copies of a record: same id, image, class and box."""
    _, first, group = np.unique(_number_equal_ids(table.id), return_index=True, return_inverse=True)
    original = first[group]
    same = (table.image_row == table.image_row[original]) & (table.label == table.label[original])
    same &= (table.boxes == table.boxes[original]).all(1) & (table.id != NO_ID)
    return same & (original != np.arange(len(original)))


def _is_not_first(values: Int64[ndarray, " N"]) -> Bool[ndarray, " N"]:
    later = np.ones(len(values), bool)
    later[np.unique(values, return_index=True)[1]] = False
    return later


def _make_ids_unique(table: AnnotationTable, report: Report) -> Shaped[ndarray, " N"]:
    """Return own ids where there are some and unique; new numbers above them elsewhere."""
    ids = table.id.tolist()
    absent = table.id == NO_ID
    duplicate = _is_not_first(_number_equal_ids(table.id)) & ~absent
    if duplicate.any():
        duplicates = summarize_list(list(dict.fromkeys(ids[i] for i in np.flatnonzero(duplicate))))
        report.warnings.append(f"{duplicate.sum()} annotation ids are used again ({duplicates}): renumbered.")
    if 0 in map(normalize_id, ids):
        report.notes.append(
            "an annotation has the id 0, which pycocotools reads as no match: it counts a detection of this object as "
            "a false positive, and libradet does not"
        )
    _report_absent_ids(table, absent, report)
    next_id = max((i for i in map(normalize_id, ids) if isinstance(i, int)), default=0)
    for position in np.flatnonzero(absent | duplicate):
        next_id = max(next_id, 0) + 1
        ids[position] = next_id
    rows = np.column_stack([table.image_row, table.label, table.boxes])
    copies = len(rows) - len(np.unique(rows, axis=0))
    if copies:
        report.warnings.append(
            f"{counted(copies, 'box has', 'boxes have')} an exact copy of the same class in the same image: kept."
        )
    return _id_array(ids)


def _report_absent_ids(table: AnnotationTable, absent: Bool[ndarray, " N"], report: Report) -> None:
    values = [r.get("id") for r in table.records]
    invalid = [values[i] for i in np.flatnonzero(absent) if values[i] is not None and "where" not in table.records[i]]
    if invalid:
        report.warnings.append(
            f"{counted(len(invalid), 'annotation has', 'annotations have')} an id that "
            f"{describe_invalid_id(invalid[0])} ({str(invalid[0])[:40]}): "
            "numbered."
        )
    if absent.sum() > len(invalid):
        report.notes.append(
            f"{counted(absent.sum() - len(invalid), 'annotation has', 'annotations have')} no id: numbered"
        )
    lost = [value for value in values if has_lost_digits(value)]
    if lost:
        report.warnings.append(
            f"{len(lost)} annotation ids are floating-point numbers that have lost digits ({lost[0]!r}): "
            "write them as integers or text."
        )
