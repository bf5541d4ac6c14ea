"""Information that a dataset format cannot hold: counted and named before conversion."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from libradet.data.formats.voc import supported_attributes
from libradet.data.formats.writing import SplitToWrite, merged_classes
from libradet.data.formats.yolo import outlines_of, polygon_of
from libradet.data.records import BOX_FIELDS, IMAGE_FIELDS, ImageRecord, extra_fields
from libradet.utils.text import counted, summarize_list


def list_unsupported(splits: Sequence[SplitToWrite], to: str, polygons: bool) -> list[str]:
    """Describe the information in the splits that is lost in format ``to``.

    Args:
        splits: to be written.
        to: "coco", "yolo" or "voc".
        polygons: polygons are written in place of boxes (YOLO).
    """
    if to == "coco":
        return []
    texts = [
        _corner_convention() if to == "voc" else "",
        _crowd(splits, to),
        _changed_boxes(splits) if polygons else "",
        _masks(splits, to, polygons),
        _rectangles(splits) if polygons else "",
        _areas(splits, to),
        _ids(splits, to),
        _empty_classes(splits) if to == "voc" else "",
        _fields(splits, to),
    ]
    return [text for text in texts if text]


def _images(splits: Sequence[SplitToWrite]) -> Iterator[ImageRecord]:
    return (image for split in splits for image in split.dataset.images)


def _corner_convention() -> str:
    return "corners count from 0 and may have decimals, as they are read here; tools that count from 1 subtract a pixel"


def _crowd(splits: Sequence[SplitToWrite], to: str) -> str:
    count = sum(int(image.crowd.sum()) for image in _images(splits))
    if not count:
        return ""
    if to == "voc":
        return f"{counted(count, 'crowd region is an object', 'crowd regions are objects')} marked difficult"
    names = "crowd region (or object marked difficult) is", "crowd regions (or objects marked difficult) are"
    regions = counted(count, *names)
    return f"{regions} omitted: YOLO does not support them"


def _masks(splits: Sequence[SplitToWrite], to: str, polygons: bool) -> str:
    kinds: Counter[str] = Counter()
    for image in _images(splits):
        for i in np.flatnonzero(~image.crowd | (to == "voc")):
            segmentation = image.segmentations[i] if image.segmentations else None
            if segmentation is not None and not (polygons and polygon_of(image, i) is not None):
                kinds["polygons" if isinstance(segmentation, list) else "RLE"] += 1
    if not kinds:
        return ""
    hint = "; polygons can be kept with --masks" if to == "yolo" and not polygons and kinds["polygons"] else ""
    masks = counted(kinds.total(), f"mask ({', '.join(kinds)}) is", f"masks ({', '.join(kinds)}) are")
    return f"{masks} omitted, boxes are kept{hint}"


def _rectangles(splits: Sequence[SplitToWrite]) -> str:
    outlines = [outlines_of(image) for image in _images(splits)]
    count = sum(sum(ring is None for ring in own) for own in outlines if any(ring is not None for ring in own))
    if not count:
        return ""
    boxes = counted(count, "box without a polygon becomes a rectangle", "boxes without a polygon become rectangles")
    return f"{boxes}, as its image has polygons: Ultralytics accepts no label file with both"


def _changed_boxes(splits: Sequence[SplitToWrite]) -> str:
    count = 0
    for image in _images(splits):
        for i in np.flatnonzero(~image.crowd):
            if (ring := polygon_of(image, i)) is not None:
                enclosing = np.concatenate([ring.min(0), ring.max(0)])
                count += bool((np.abs(enclosing - image.boxes[i]) > 1).any())
    return (
        f"{counted(count, 'box becomes', 'boxes become')} those around their polygons, more than a pixel away"
        if count
        else ""
    )


def _areas(splits: Sequence[SplitToWrite], to: str) -> str:
    count = 0
    for image in _images(splits):
        sides = (image.boxes[:, 2:] - image.boxes[:, :2]).astype(np.float64)
        differs = ~np.isclose(image.area, sides.prod(1), rtol=1e-3)
        count += int((differs & ~image.crowd).sum() if to == "yolo" else differs.sum())
    areas = counted(count, "area becomes that of its box", "areas become those of the boxes")
    return f"{areas} (they define COCO's small, medium and large)" if count else ""


def _ids(splits: Sequence[SplitToWrite], to: str) -> str:
    """Name the kinds of ids that change."""
    classes = merged_classes(splits)
    if to == "yolo":
        new_ids = {name: i for i, name in enumerate(classes)}
    else:
        new_ids = {name: i for i, name in enumerate(sorted(_used_classes(splits)), start=1)}
    changed = []
    for split in splits:
        old_ids = zip(split.dataset.class_names, split.dataset.category_ids, strict=True)
        if any(new_ids.get(name, number) != number for name, number in old_ids):
            changed.append("categories")
            break
    images = [[image.id for image in split.dataset.images] for split in splits]
    objects = [[i for p in split.dataset.images for i in p.annotation_ids.tolist()] for split in splits]
    for name, ids_by_split in (("images", images), ("objects", objects)):
        if any(ids != list(range(1, len(ids) + 1)) for ids in ids_by_split):
            changed.append(name)
    return f"ids of {', '.join(changed)}: renumbered" if changed else ""


def _used_classes(splits: Sequence[SplitToWrite]) -> set[str]:
    return {split.dataset.class_names[k] for split in splits for p in split.dataset.images for k in p.labels}


def _empty_classes(splits: Sequence[SplitToWrite]) -> str:
    used = _used_classes(splits)
    empty = [name for name in merged_classes(splits) if name not in used]
    if not empty:
        return ""
    return (
        f"{counted(len(empty), 'class', 'classes')} without an object, as only objects name classes "
        f"({summarize_list(empty)})"
    )


def _fields(splits: Sequence[SplitToWrite], to: str) -> str:
    counts: Counter[str] = Counter(key for split in splits for key in split.extra)
    counts.update(key for split in splits for category in split.categories for key in category)
    for image in _images(splits):
        image_record, box_records = image.records or ({}, [])
        counts.update(extra_fields(image_record, IMAGE_FIELDS).keys())
        for record in box_records:
            fields = set(extra_fields(record, BOX_FIELDS))
            if to == "voc" and supported_attributes(record) == record.get("attributes"):
                fields.discard("attributes")
            counts.update(fields)
    return f"other fields: {', '.join(f'{key} ({n})' for key, n in counts.items())}" if counts else ""
