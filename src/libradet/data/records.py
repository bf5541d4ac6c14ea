"""Datasets in memory: images with their boxes, class names, and annotations as read from files."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Float32, Float64, Int64
from numpy import ndarray


@dataclass(frozen=True, eq=False, slots=True)
class ImageRecord:
    """One image and its ground truth.

    Attributes:
        id: the dataset's own image id.
        path: the file.
        width, height: pixels of the upright image (after EXIF rotation).
        boxes: xyxy in pixels, inside the image, with positive area.
        labels: 0..C-1.
        crowd: regions that hold many objects, or objects to ignore.
        area: pixels, as annotated (of the mask if there is one), else of the box.
        annotation_ids: the dataset's own.
        segmentations: for each box a list of polygons (flat float32 x, y, ...), an RLE dictionary, or
            None; None altogether if masks were not requested.
        apply_exif: whether the file's EXIF orientation applies. False where the boxes were drawn on the
            stored, unrotated pixels.
        records: the image's record and its boxes' records as read, if they were requested.
    """

    id: int
    path: Path
    width: int
    height: int
    boxes: Float32[ndarray, "G 4"]
    labels: Int64[ndarray, " G"]
    crowd: Bool[ndarray, " G"]
    area: Float64[ndarray, " G"]
    annotation_ids: Int64[ndarray, " G"]
    segmentations: list[Any] | None = None
    apply_exif: bool = True
    records: tuple[dict[str, Any], list[dict[str, Any]]] | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a dataset; label i is ``category_ids[i]`` in the files and named ``class_names[i]``."""

    root: Path
    split: str
    images: list[ImageRecord]
    category_ids: list[int]
    class_names: list[str]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(eq=False)
class RawAnnotations:
    """A split as its files describe it, in COCO's terms, before validation.

    Attributes:
        source: the file or folder to name in messages.
        image_folders: where image files may be, most likely first.
        images: ``id``, ``file_name``; optionally ``width``, ``height``.
        annotations: ``id``, ``image_id``, ``category_id``, ``bbox`` (xywh) and more; ``where`` (file and
            line) names those that have no id of their own.
        categories: ``id``, ``name``.
        normalized: boxes and polygons are fractions of the upright image's width and height.
        notes: remarks for the report on how the split was read.
        extra: other top-level fields of the file, such as ``info`` and ``licenses``.
    """

    root: Path
    split: str
    source: Path
    image_folders: list[Path]
    images: list[Any]
    annotations: list[Any]
    categories: list[Any]
    normalized: bool = False
    notes: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


MAX_ID = 2**62
IMAGE_FIELDS = frozenset({"id", "file_name", "width", "height"})
BOX_FIELDS = frozenset({"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "where"})
CLASS_FIELDS = frozenset({"id", "name"})


def extra_fields(record: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """Return the fields of a record that are not in ``known``."""
    return {key: value for key, value in record.items() if key not in known}


def normalize_id(value: Any) -> Any:
    """Return an id in canonical form: integral numbers and digits as int, other text unchanged, else None.

    Numbers beyond 64 bits become None as well, because other tools keep ids in 64 bits.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        if not value.strip().isdecimal():
            return value
        return int(value) if len(value.strip()) <= 18 else None
    return int(value) if -MAX_ID <= value <= MAX_ID and value == int(value) else None
