"""What is known of a dataset once it has been read: images with their boxes, and the classes."""

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
        boxes: xyxy in pixels, inside the image, with an area.
        labels: 0..C-1.
        crowd: regions that hold many objects, or objects not to be judged.
        area: pixels, as annotated (of the mask if there is one), else of the box.
        annotation_ids: the dataset's own.
        segmentations: for each box a list of polygons (flat float32 x, y, ...), an RLE dictionary, or
            None; None altogether if masks were not asked for.
        upright: whether the file's EXIF orientation applies. False where the boxes were drawn on the
            stored, unrotated pixels.
        records: the image's record and its boxes' as they were read, if they were asked for.
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
    upright: bool = True
    records: tuple[dict[str, Any], list[dict[str, Any]]] | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a dataset; label i is ``category_ids[i]`` in the files and ``class_names[i]`` to people."""

    root: Path
    split: str
    images: list[ImageRecord]
    category_ids: list[int]
    class_names: list[str]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(eq=False)
class Raw:
    """A split as its files tell it, in COCO's terms, before any check.

    Attributes:
        source: the file or folder to name in messages.
        folders: where images may lie, likeliest first.
        images: ``id``, ``file_name``; perhaps ``width``, ``height``.
        annotations: ``id``, ``image_id``, ``category_id``, ``bbox`` (xywh) and more; ``where`` (file and
            line) names those that have no id of their own.
        categories: ``id``, ``name``.
        relative: boxes and polygons are fractions of the upright image's width and height.
        notes: what a reader should know about how this was read.
        rest: what else the file holds, such as ``info`` and ``licenses``.
    """

    root: Path
    split: str
    source: Path
    folders: list[Path]
    images: list[Any]
    annotations: list[Any]
    categories: list[Any]
    relative: bool = False
    notes: list[str] = field(default_factory=list)
    rest: dict[str, Any] = field(default_factory=dict)


LARGEST_ID = 2**62
IMAGE_FIELDS = frozenset({"id", "file_name", "width", "height"})
BOX_FIELDS = frozenset({"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "where"})
CLASS_FIELDS = frozenset({"id", "name"})


def other_fields(record: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """What a record holds beside the fields that are known here."""
    return {key: value for key, value in record.items() if key not in known}


def plain_id(value: Any) -> Any:
    """An id in its plainest form: integral numbers and digits as int, other text as it is, else None.

    So are numbers that 64 bits do not hold, as other tools keep ids in these.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        if not value.strip().isdecimal():
            return value
        return int(value) if len(value.strip()) <= 18 else None
    return int(value) if -LARGEST_ID <= value <= LARGEST_ID and value == int(value) else None
