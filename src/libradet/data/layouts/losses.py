"""What a layout has no place for, counted and named."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from libradet.data.checks.report import few
from libradet.data.layouts.parts import Part, merged_classes
from libradet.data.layouts.voc import attributes
from libradet.data.layouts.write_yolo import polygon_of
from libradet.data.records import BOX_FIELDS, IMAGE_FIELDS, ImageRecord, other_fields


def losses(parts: Sequence[Part], to: str, masks: bool) -> list[str]:
    """What is in the splits, and will not be read again from files of the layout ``to``."""
    if to == "coco":
        return []
    corners = (
        "corners count from 0 and may have decimals, as they are read here; tools that count from 1 take a pixel off"
    )
    found = [
        corners if to == "voc" else "",
        _crowd(parts, to),
        *(_moved(parts) if masks else ()),
        _masks(parts, to, masks),
        _areas(parts, to),
    ]
    found += [_numbers(parts, to), _bare_classes(parts) if to == "voc" else "", _fields(parts, to)]
    return [text for text in found if text]


def _images(parts: Sequence[Part]) -> Iterator[ImageRecord]:
    return (record for part in parts for record in part.dataset.images)


def _crowd(parts: Sequence[Part], to: str) -> str:
    count = sum(int(record.crowd.sum()) for record in _images(parts))
    if not count:
        return ""
    if to == "voc":
        return f"{count} crowd regions are objects marked difficult"
    return f"{count} crowd regions (or objects marked difficult) are left out: YOLO has no mark for them"


def _masks(parts: Sequence[Part], to: str, masks: bool) -> str:
    kinds: Counter[str] = Counter()
    for record in _images(parts):
        for i in np.flatnonzero(~record.crowd | (to == "voc")):
            found = record.segmentations[i] if record.segmentations else None
            if found is not None and not (masks and polygon_of(record, i) is not None):
                kinds["polygons" if isinstance(found, list) else "run lengths"] += 1
    if not kinds:
        return ""
    more = "; polygons can be kept with --masks" if to == "yolo" and not masks and kinds["polygons"] else ""
    return f"{kinds.total()} masks ({', '.join(kinds)}) are left out, their boxes are not{more}"


def _moved(parts: Sequence[Part]) -> Iterator[str]:
    count = 0
    for record in _images(parts):
        for i in np.flatnonzero(~record.crowd):
            if (ring := polygon_of(record, i)) is not None:
                around = np.concatenate([ring.min(0), ring.max(0)])
                count += bool((np.abs(around - record.boxes[i]) > 1).any())
    if count:
        yield f"{count} boxes become those around their polygons, more than a pixel away"


def _areas(parts: Sequence[Part], to: str) -> str:
    count = 0
    for record in _images(parts):
        sides = (record.boxes[:, 2:] - record.boxes[:, :2]).astype(np.float64)
        other = ~np.isclose(record.area, sides.prod(1), rtol=1e-3)
        count += int((other & ~record.crowd).sum() if to == "yolo" else other.sum())
    return f"{count} areas (which COCO's small, medium and large go by) become those of the boxes" if count else ""


def _numbers(parts: Sequence[Part], to: str) -> str:
    """Ids that will be others when the files are read."""
    classes = merged_classes(parts)
    used = sorted({part.dataset.class_names[k] for part in parts for p in part.dataset.images for k in p.labels})
    new = {n: i for i, n in enumerate(classes)} if to == "yolo" else {n: i for i, n in enumerate(used, start=1)}
    kinds = []
    old = [pair for p in parts for pair in zip(p.dataset.class_names, p.dataset.category_ids, strict=True)]
    if any(new.get(name, number) != number for name, number in old):
        kinds.append("categories")
    images = [[record.id for record in part.dataset.images] for part in parts]
    objects = [[int(i) for p in part.dataset.images for i in p.annotation_ids] for part in parts]
    for name, splits in (("images", images), ("objects", objects)):
        if any(ids != list(range(1, len(ids) + 1)) for ids in splits):
            kinds.append(name)
    return f"ids of {', '.join(kinds)}: numbered anew" if kinds else ""


def _bare_classes(parts: Sequence[Part]) -> str:
    used = {part.dataset.class_names[k] for part in parts for p in part.dataset.images for k in p.labels}
    bare = [name for name in merged_classes(parts) if name not in used]
    return f"{len(bare)} classes without an object, as objects are all that names them ({few(bare)})" if bare else ""


def _fields(parts: Sequence[Part], to: str) -> str:
    counts: Counter[str] = Counter(key for part in parts for key in part.rest)
    counts.update(key for part in parts for category in part.categories for key in category)
    for record in _images(parts):
        image, boxes = record.records or ({}, [])
        counts.update(other_fields(image, IMAGE_FIELDS).keys())
        for box in boxes:
            left = set(other_fields(box, BOX_FIELDS))
            if to == "voc" and attributes(box) == box.get("attributes"):
                left.discard("attributes")
            counts.update(left)
    return f"other fields: {', '.join(f'{key} ({n})' for key, n in counts.items())}" if counts else ""
