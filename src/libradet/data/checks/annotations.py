"""The annotations of a split as columns, and the checks on their boxes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from libradet.data.checks.report import Report, few
from libradet.data.records import LARGEST_ID, plain_id
from libradet.data.segmentations import enclosing_box

UNKNOWN, LEFT_OUT = -1, -2
"""Rows of annotations whose image is not listed, and whose image was left out."""

MIN_SIDE = 0.01
"""Pixels; below, a box counts as having no area."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Annotations, one in a row.

    Attributes:
        records: as in the file.
        row: of the image, or UNKNOWN, LEFT_OUT.
        label: -1 where the category is unknown.
        boxes: xywh as read, NaN where not four numbers; xyxy in pixels once checked.
        area: NaN where not given.
        formed: whether the box was four numbers.
    """

    records: list[Any]
    row: Int64[ndarray, " N"]
    label: Int64[ndarray, " N"]
    boxes: Float64[ndarray, "N 4"]
    crowd: Bool[ndarray, " N"]
    area: Float64[ndarray, " N"]
    id: Int64[ndarray, " N"]
    formed: Bool[ndarray, " N"]

    def pick(self, keep: Bool[ndarray, " N"]) -> "Columns":
        """The rows to keep."""
        if keep.all():
            return self
        records = [record for record, kept in zip(self.records, keep, strict=True) if kept]
        arrays = {k: v[keep] for k, v in vars(self).items() if isinstance(v, ndarray)}
        return replace(self, records=records, **arrays)


def read_columns(records: list[Any], rows: dict[Any, int], left_out: set[Any], labels: dict[Any, int]) -> Columns:
    """Annotations as columns; ``rows``, ``left_out`` and ``labels`` have ids in their plainest form as keys."""
    records = [record if isinstance(record, dict) else {} for record in records]
    row = _look_up(records, "image_id", rows | dict.fromkeys(left_out, LEFT_OUT))
    label = _look_up(records, "category_id", labels)
    boxes, formed = _read_boxes(records)
    crowd = np.array([_flag(r.get("iscrowd")) or _flag(r.get("ignore")) for r in records], bool)
    area = np.array([_number(r.get("area")) for r in records], np.float64)
    return Columns(records, row, label, boxes, crowd, area, _read_ids(records), formed)


def check_boxes(
    columns: Columns, sizes: Float64[ndarray, "I 2"], files: list[str], relative: bool, report: Report
) -> Columns:
    """Rows whose box can be trusted, in xyxy pixels inside their image.

    ``sizes`` (width, height) and ``files`` (names) are those of the images; ``relative`` boxes come as
    fractions of the image.
    """

    def name(i: int) -> str:
        record, row = columns.records[i], columns.row[i]
        place = f" in {files[row]}" if row >= 0 else f" of image {record.get('image_id')!r}"
        return record.get("where") or f"annotation {record.get('id', f'number {i + 1}')}{place}"

    def leave_out(what: str, bad: Bool[ndarray, " N"]) -> None:
        nonlocal columns
        report.skip(what, [name(int(i)) for i in np.flatnonzero(bad)])
        columns = columns.pick(~bad)

    leave_out("box of an image that is not listed", columns.row == UNKNOWN)
    leave_out("box of an image that was left out", columns.row == LEFT_OUT)
    _refuse_unknown_categories(columns, name, report)
    leave_out("box of an unknown category", columns.label < 0)
    leave_out("box is not four numbers", ~columns.formed)
    leave_out("box with a NaN or infinite coordinate", np.logical_not(np.all(np.isfinite(columns.boxes), axis=1)))
    leave_out("box without area", np.any(columns.boxes[:, 2:] <= 0, axis=1))
    scale = np.tile(sizes, 2)[columns.row]
    _suspect_other_formats(columns.boxes, scale, relative, report)
    columns = replace(columns, boxes=_corners(columns.boxes * scale if relative else columns.boxes))
    clipped = np.clip(columns.boxes, 0, scale)
    sides = clipped[:, 2:] - clipped[:, :2]
    _note_clipped(columns, clipped, name, report)
    area = _areas(columns, sides, relative)
    columns = replace(columns, boxes=clipped, area=area)
    outside = np.any(sides < MIN_SIDE, axis=1)
    leave_out("box outside its image", outside)
    leave_out("box listed twice", _repeated(columns))
    return replace(columns, id=_unique_ids(columns, report))


def _look_up(records: list[dict], key: str, table: dict[Any, int]) -> Int64[ndarray, " N"]:
    def find(value: Any) -> int:
        plain = value if type(value) is int else plain_id(value)
        return UNKNOWN if plain is None else table.get(plain, UNKNOWN)

    return np.fromiter((find(r.get(key)) for r in records), np.int64, len(records))


def _read_boxes(records: list[dict]) -> tuple[Float64[ndarray, "N 4"], Bool[ndarray, " N"]]:
    try:
        boxes = np.array([r["bbox"] for r in records], np.float64)
    except (KeyError, ValueError, TypeError, OverflowError):
        boxes = np.empty(0)
    if boxes.shape == (len(records), 4):
        return boxes, np.ones(len(records), bool)
    rows = [_read_box(r) for r in records]
    formed = np.array([row is not None for row in rows], bool)
    return np.array([row or [np.nan] * 4 for row in rows], np.float64).reshape(-1, 4), formed


def _read_box(record: dict) -> list[float] | None:
    """Four numbers (or their text), or the box around the segmentation if none is given."""
    box = record.get("bbox")
    if box is None or box == []:
        return enclosing_box(record.get("segmentation"))
    if not isinstance(box, list | tuple) or len(box) != 4 or any(isinstance(v, bool) for v in box):
        return None
    try:
        return [float("nan") if value is None else float(value) for value in box]
    except (TypeError, ValueError, OverflowError):
        return None


def _read_ids(records: list[dict]) -> Int64[ndarray, " N"]:
    """Own ids; -1 where there is none that is a number."""
    ids = (r.get("id") for r in records)
    return np.array([i if type(i) is int and -1 < i <= LARGEST_ID else -1 for i in ids], np.int64)


def _flag(value: Any) -> bool:
    return value in (1, "1", "true", "True")


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _corners(boxes: Float64[ndarray, "N 4"]) -> Float64[ndarray, "N 4"]:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def _refuse_unknown_categories(columns: Columns, name: Callable[[int], str], report: Report) -> None:
    bad = np.flatnonzero(columns.label < 0)
    if len(bad):
        written = (columns.records[i].get("category_id") for i in bad)
        ids = sorted({str(value if plain_id(value) is None else plain_id(value)) for value in written})
        report.errors.append(
            f"{len(bad)} annotations have category ids that 'categories' does not list ({few(ids)}): "
            f"{few([name(int(i)) for i in bad])}. Add the category or remove them."
        )


def _suspect_other_formats(
    boxes: Float64[ndarray, "N 4"], scale: Float64[ndarray, "N 4"], relative: bool, report: Report
) -> None:
    """Boxes in another convention would train in silence, on nonsense."""
    if relative:
        if len(boxes) and (np.abs(boxes).max(1) > 2).mean() > 0.5:
            report.errors.append("boxes should be fractions of the image, most are far above 1: are they in pixels?")
        return
    if len(boxes) and boxes.max() <= 1.0 and scale.min() > 4:
        report.errors.append("no box exceeds one pixel: are they fractions of the image? They have to be in pixels.")
    beyond = (_corners(boxes) > scale + 1).any(1)
    corners = (boxes[:, 2:] > boxes[:, :2]).all(1) & (boxes <= scale + 1).all(1)
    if len(boxes) and beyond.mean() > 0.5 and corners.all():
        report.errors.append(
            f"{beyond.sum()} of {len(boxes)} boxes leave their image, none would if they were x1, y1, x2, y2: "
            "COCO's bbox is x, y, width, height."
        )


def _note_clipped(
    columns: Columns, clipped: Float64[ndarray, "N 4"], name: Callable[[int], str], report: Report
) -> None:
    beyond = np.abs(columns.boxes - clipped).max(1, initial=0)
    inside = (clipped[:, 2:] - clipped[:, :2] >= MIN_SIDE).all(1)
    far, near = inside & (beyond > 1), inside & (beyond > 0.01) & (beyond <= 1)
    if far.any():
        examples = few([name(int(i)) for i in np.flatnonzero(far)])
        report.warnings.append(f"{far.sum()} boxes reach beyond their image: clipped to it ({examples}).")
    if near.any():
        report.notes.append(f"{near.sum()} boxes reach beyond their image by at most one pixel: clipped")


def _areas(columns: Columns, sides: Float64[ndarray, "N 2"], relative: bool) -> Float64[ndarray, " N"]:
    """As annotated, but no more than a clipped box holds; of the box where not given."""
    width, height = (columns.boxes[:, 2:] - columns.boxes[:, :2]).T
    inside = sides.prod(1)
    given = (np.isfinite(columns.area) & (columns.area > 0)) if not relative else np.zeros(len(inside), bool)
    clipped = inside < width * height * (1 - 1e-9)
    return np.where(given, np.where(clipped, np.minimum(columns.area, inside), columns.area), inside)


def _repeated(columns: Columns) -> Bool[ndarray, " N"]:
    """Second and later copies of a record: same id, image, class and box."""
    _, first, group = np.unique(columns.id, return_index=True, return_inverse=True)
    original = first[group]
    same = (columns.row == columns.row[original]) & (columns.label == columns.label[original])
    same &= (columns.boxes == columns.boxes[original]).all(1) & (columns.id >= 0)
    return same & (original != np.arange(len(original)))


def _not_first(values: Int64[ndarray, " N"]) -> Bool[ndarray, " N"]:
    later = np.ones(len(values), bool)
    later[np.unique(values, return_index=True)[1]] = False
    return later


def _unique_ids(columns: Columns, report: Report) -> Int64[ndarray, " N"]:
    """Own ids where they are numbers and unique; new ones above them elsewhere."""
    ids = columns.id.copy()
    untold, doubled = ids < 0, _not_first(ids) & (ids >= 0)
    if doubled.any():
        report.warnings.append(
            f"{doubled.sum()} annotation ids are used again ({few(np.unique(ids[doubled]).tolist())}): renumbered."
        )
    if untold.any():
        report.notes.append(f"{untold.sum()} annotations have no id that is a number: numbered")
    fresh = untold | doubled
    ids[fresh] = ids.max(initial=0) + 1 + np.arange(fresh.sum())
    rows = np.column_stack([columns.row, columns.label, columns.boxes])
    copies = len(rows) - len(np.unique(rows, axis=0))
    if copies:
        report.warnings.append(f"{copies} boxes have an exact copy of the same class in the same image: kept.")
    return ids
