"""Datasets in memory: images with their boxes, class names, and annotations as read from files."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Bool, Float32, Float64, Int64, Shaped
from numpy import ndarray

from libradet.geometry.tiles import Window


class Tile(NamedTuple):
    """The part of a file that an image record describes, and the size of the upright image in the file."""

    window: Window
    image_height: int
    image_width: int


@dataclass(frozen=True, eq=False, slots=True)
class ImageRecord:
    """One image and its ground truth.

    Attributes:
        id: the dataset's own image id, a number or text.
        path: the file.
        width, height: pixels of the upright image (after EXIF rotation).
        boxes: xyxy in pixels, inside the image, with positive area.
        labels: 0..C-1.
        crowd: regions that hold many objects, or objects to ignore.
        area: pixels, as annotated (of the mask if there is one), else of the box.
        annotation_ids: the dataset's own; objects instead of int64 where some are text or exceed it.
        segmentations: for each box a list of polygons (flat float32 x, y, ...), an RLE dictionary, or
            None; None altogether if masks were not requested.
        apply_exif: whether the file's EXIF orientation applies. False where the boxes were drawn on the
            stored, unrotated pixels.
        records: the image's record and its boxes' records as read, if they were requested.
        tile: the part of the file that this record describes (:mod:`libradet.data.tiling`): size, boxes and
            segmentations are those of the tile. None for the whole image.
    """

    id: int | str
    path: Path
    width: int
    height: int
    boxes: Float32[ndarray, "G 4"]
    labels: Int64[ndarray, " G"]
    crowd: Bool[ndarray, " G"]
    area: Float64[ndarray, " G"]
    annotation_ids: Shaped[ndarray, " G"]
    segmentations: list[Any] | None = None
    apply_exif: bool = True
    records: tuple[dict[str, Any], list[dict[str, Any]]] | None = None
    tile: Tile | None = None

    @property
    def has_objects(self) -> bool:
        """Whether there is an object; crowd regions do not count."""
        return not self.crowd.all()

    @property
    def name(self) -> str:
        """File name for messages, with the position of a tile."""
        if self.tile is None:
            return self.path.name
        return f"{self.path.name} (tile at x {self.tile.window.left}, y {self.tile.window.top})"


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a dataset; label i is ``category_ids[i]`` in the files and named ``class_names[i]``."""

    root: Path
    split: str
    images: list[ImageRecord]
    category_ids: list[int | str]
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
        is_voc: boxes were read from Pascal VOC's corners, which count from 0 in some files and from 1 in others.
        notes: remarks for the report on how the split was read.
        unused: other annotation files in the folder, which are not read.
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
    is_voc: bool = False
    notes: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


MIN_ID, MAX_ID = -(2**63), 2**64 - 1
"""Range of numeric ids: 64 bits, signed or unsigned."""

_EXACT_FLOAT = 2**53

IMAGE_FIELDS = frozenset({"id", "file_name", "width", "height"})
BOX_FIELDS = frozenset({"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "where"})
CLASS_FIELDS = frozenset({"id", "name"})


def extra_fields(record: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """Return the fields of a record that are not in ``known``."""
    return {key: value for key, value in record.items() if key not in known}


def normalize_id(value: Any) -> Any:
    """Return an id in the form by which ids are compared: whole numbers and digits as int, other text unchanged.

    Digits that exceed 64 bits stay text. None for anything else, such as numbers that exceed 64 bits.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        digits = value.strip()
        is_number = digits.isdecimal() and len(digits) <= len(str(MAX_ID)) and int(digits) <= MAX_ID
        return int(digits) if is_number else value
    return int(value) if MIN_ID <= value <= MAX_ID and value == int(value) else None


def own_id(value: Any) -> int | str:
    """Return a valid id as results and converted datasets have it: text unchanged, numbers as int."""
    return value if isinstance(value, str) else int(value)


def id_order(value: int | str) -> tuple[bool, int | str, str]:
    """Return the key to sort own ids by: numbers, also as text, before other text."""
    key = normalize_id(value)
    key = value if key is None else key
    return isinstance(key, str), key, str(value)


def has_lost_digits(value: Any) -> bool:
    """Return whether an id is a floating-point number so large that it cannot represent every whole number."""
    return isinstance(value, float) and _EXACT_FLOAT <= abs(value) <= MAX_ID


def describe_invalid_id(value: Any) -> str:
    """Return why a value is no id."""
    if value is None:
        return "is missing"
    if isinstance(value, int | float) and not isinstance(value, bool) and not MIN_ID <= value <= MAX_ID:
        is_number = isinstance(value, int) or abs(value) < float("inf")
        return "is too large: numbers have at most 64 bits, longer ids must be text" if is_number else "is not a number"
    return "is not a whole number" if isinstance(value, float) else "is neither a number nor text"
