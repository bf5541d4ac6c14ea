"""What detections are measured against, in columns: dictionaries of a hundred thousand images take minutes."""

from itertools import chain
from typing import Any, NamedTuple

import hotcoco
import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from libradet.data.records import Dataset
from libradet.data.segmentations import plain_segmentation
from libradet.errors import UserError


class GroundTruth(NamedTuple):
    """The objects of a dataset, one in a row, with its own ids.

    Attributes:
        images: ``id`` of all images, and ``width`` and ``height`` where masks are measured.
        categories: ``id`` and ``name`` of all classes.
        image, category: ids, of each object.
        boxes: x, y, width, height in pixels.
        area: pixels.
        segmentations: of each object polygons, run lengths, or None; None altogether if only boxes matter.
        numbers: annotation ids, to name them.
    """

    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    image: Int64[ndarray, " N"]
    category: Int64[ndarray, " N"]
    boxes: Float64[ndarray, "N 4"]
    area: Float64[ndarray, " N"]
    crowd: Bool[ndarray, " N"]
    segmentations: list[Any] | None
    numbers: list[Any]

    def count_by_class(self, images: list[int]) -> dict[str, int]:
        """Objects in some images by class, crowd regions left out, classes in the order of their ids.

        Names that occur twice are told apart by id.
        """
        categories = sorted(self.categories, key=lambda c: c["id"])
        names = [c["name"] for c in categories]
        named = [c["name"] if names.count(c["name"]) == 1 else f"{c['name']} ({c['id']})" for c in categories]
        counted = self.category[np.isin(self.image, images) & ~self.crowd]
        found = dict(zip(*(column.tolist() for column in np.unique(counted, return_counts=True)), strict=True))
        return {name: found.get(category["id"], 0) for name, category in zip(named, categories, strict=True)}

    def to_hotcoco(self, iou_type: str) -> hotcoco.COCO:
        """As hotcoco takes it, objects numbered from 1: COCO's tools take a match with number 0 for none.

        A crowd region without segmentation is its box.

        Raises:
            UserError: masks are to be measured and an object has none.
        """
        columns = self.image, self.category, self.boxes
        options: dict[str, Any] = {"area": self.area, "iscrowd": self.crowd}
        if iou_type == "segm":
            options["segmentation"] = self._whole_segmentations()
        return hotcoco.COCO.from_arrays(self.images, self.categories, *columns, **options)

    def _whole_segmentations(self) -> list[Any]:
        found = list(self.segmentations or [None] * len(self.numbers))
        for i in np.flatnonzero(self.crowd).tolist():
            found[i] = found[i] or _box_polygon(*self.boxes[i].tolist())
        if bare := [number for number, segmentation in zip(self.numbers, found, strict=True) if not segmentation]:
            raise UserError(
                f"{len(bare)} annotations have no segmentation (ids {', '.join(map(str, bare[:5]))}…): "
                "masks cannot be measured on this dataset, only boxes."
            )
        return found


def truth_of(dataset: Dataset, masks: bool = False) -> GroundTruth:
    """All objects of a dataset that was read; with ``masks`` also their segmentations."""
    images = dataset.images
    counts = [len(p.labels) for p in images]
    boxes = _joined([p.boxes for p in images], np.zeros((0, 4)))
    boxes[:, 2:] -= boxes[:, :2]
    numbers = _joined([p.annotation_ids for p in images], np.zeros(0, np.int64))
    return GroundTruth(
        [{"id": p.id, "width": p.width, "height": p.height} for p in images],
        [{"id": i, "name": n} for i, n in zip(dataset.category_ids, dataset.class_names, strict=True)],
        np.repeat(np.array([p.id for p in images], np.int64), counts),
        np.array(dataset.category_ids, np.int64)[_joined([p.labels for p in images], np.zeros(0, np.int64))],
        boxes,
        _joined([p.area for p in images], np.zeros(0)),
        _joined([p.crowd for p in images], np.zeros(0, bool)),
        _segmentations(dataset) if masks else None,
        numbers.tolist(),
    )


def truth_of_records(records: dict[str, Any]) -> GroundTruth:
    """The objects of COCO records; the area of the box where none is given."""
    annotations = records["annotations"]
    boxes = np.array([a.get("bbox") or [0.0] * 4 for a in annotations], np.float64).reshape(-1, 4)
    areas = [a.get("area") for a in annotations]
    return GroundTruth(
        records["images"],
        records["categories"],
        np.array([a["image_id"] for a in annotations], np.int64),
        np.array([a["category_id"] for a in annotations], np.int64),
        boxes,
        np.where([area is None for area in areas], boxes[:, 2] * boxes[:, 3], np.array(areas, np.float64)),
        np.array([bool(a.get("iscrowd")) for a in annotations], bool),
        [a.get("segmentation") for a in annotations],
        [a["id"] for a in annotations],
    )


def _segmentations(dataset: Dataset) -> list[Any]:
    each = (p.segmentations or [None] * len(p.labels) for p in dataset.images)
    return [None if found is None else plain_segmentation(found) for found in chain.from_iterable(each)]


def _joined(parts: list[ndarray], none: ndarray) -> ndarray:
    return np.concatenate([none, *parts])


def _box_polygon(x: float, y: float, w: float, h: float) -> list[list[float]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]
