"""Ground truth as columns of arrays: dictionaries of single objects are slow, minutes for a hundred thousand images.

COCOeval keeps ids as doubles, which hold neither text nor whole numbers beyond 53 bits. So images and categories are
numbered from 1, in the order of their ids; ids of the dataset itself are only in results and messages.
"""

from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import hotcoco
import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from libradet.data.records import Dataset, id_order, normalize_id
from libradet.data.segmentations import segmentation_to_json
from libradet.errors import UserError
from libradet.utils.text import counted, summarize_list


class GroundTruth(NamedTuple):
    """The N objects of a dataset, whose images and categories are numbered (:func:`number_ids`).

    Attributes:
        images: ``id`` (number) of all images, and ``width`` and ``height`` if masks are evaluated.
        categories: ``id`` (number) and ``name`` of all classes; names are unique.
        image_ids, category_ids: numbers of each object's image and category.
        boxes: xywh in pixels.
        area: in pixels.
        crowd: True for crowd regions.
        segmentations: polygons, RLE or None for each object; None if only boxes are evaluated.
        annotation_ids: for messages.
    """

    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    image_ids: Int64[ndarray, " N"]
    category_ids: Int64[ndarray, " N"]
    boxes: Float64[ndarray, "N 4"]
    area: Float64[ndarray, " N"]
    crowd: Bool[ndarray, " N"]
    segmentations: list[Any] | None
    annotation_ids: list[Any]

    def count_by_class(self, image_ids: list[int]) -> dict[str, int]:
        """Return the number of objects without crowd regions in some images by class name, in the order of classes."""
        categories = sorted(self.categories, key=lambda c: c["id"])
        selected = self.category_ids[np.isin(self.image_ids, image_ids) & ~self.crowd]
        ids, counts = np.unique(selected, return_counts=True)
        by_id = dict(zip(ids.tolist(), counts.tolist(), strict=True))
        return {category["name"]: by_id.get(category["id"], 0) for category in categories}

    def to_hotcoco(self, iou_type: str) -> hotcoco.COCO:
        """Convert to a ``hotcoco.COCO`` dataset, with annotation ids from 1, since COCOeval treats id 0 as no match.

        A crowd region without segmentation is represented by its box.

        Raises:
            UserError: masks are evaluated and an object has none.
        """
        columns = self.image_ids, self.category_ids, self.boxes
        options: dict[str, Any] = {"area": self.area, "iscrowd": self.crowd}
        if iou_type == "segm":
            options["segmentation"] = self._complete_segmentations()
        return hotcoco.COCO.from_arrays(self.images, self.categories, *columns, **options)

    def _complete_segmentations(self) -> list[Any]:
        segmentations = list(self.segmentations or [None] * len(self.annotation_ids))
        for i in np.flatnonzero(self.crowd).tolist():
            segmentations[i] = segmentations[i] or _box_polygon(*self.boxes[i].tolist())
        missing = [key for key, value in zip(self.annotation_ids, segmentations, strict=True) if not value]
        if missing:
            raise UserError(
                f"{counted(len(missing), 'annotation has', 'annotations have')} no segmentation (ids "
                f"{summarize_list(missing)}): "
                "evaluate boxes only, or add segmentations to the dataset"
            )
        return segmentations


def number_ids(ids: Iterable[Any]) -> dict[Any, int]:
    """Return numbers from 1 for ids in comparable form (:func:`comparable_id`), in the order of the ids."""
    return {key: number for number, key in enumerate(sorted({comparable_id(i) for i in ids}, key=id_order), start=1)}


def comparable_id(value: Any) -> Any:
    """Return an id as :func:`libradet.data.records.normalize_id` does; values that are no id unchanged."""
    key = value if type(value) is int else normalize_id(value)
    return value if key is None else key


def number_images(dataset: Dataset) -> list[int]:
    """Return the numbers of a dataset's images."""
    numbers = number_ids(image.id for image in dataset.images)
    return [numbers[comparable_id(image.id)] for image in dataset.images]


def ground_truth_from_dataset(dataset: Dataset, masks: bool = False) -> GroundTruth:
    """Return the objects of a dataset, with their segmentations if ``masks``."""
    images = dataset.images
    image_numbers = number_images(dataset)
    counts = [len(p.labels) for p in images]
    boxes = _concatenate([p.boxes for p in images], np.zeros((0, 4)))
    boxes[:, 2:] -= boxes[:, :2]
    labels = _concatenate([p.labels for p in images], np.zeros(0, np.int64))
    return GroundTruth(
        images=[
            {"id": number, "width": p.width, "height": p.height}
            for number, p in zip(image_numbers, images, strict=True)
        ],
        categories=[{"id": label + 1, "name": name} for label, name in enumerate(dataset.class_names)],
        image_ids=np.repeat(np.array(image_numbers, np.int64), counts),
        category_ids=labels.astype(np.int64) + 1,
        boxes=boxes,
        area=_concatenate([p.area for p in images], np.zeros(0)),
        crowd=_concatenate([p.crowd for p in images], np.zeros(0, bool)),
        segmentations=_segmentations(dataset) if masks else None,
        annotation_ids=[key for p in images for key in p.annotation_ids.tolist()],
    )


def ground_truth_from_coco(records: dict[str, Any]) -> GroundTruth:
    """Return the objects of a COCO dictionary; a missing ``area`` is that of the box."""
    annotations = records["annotations"]
    boxes = np.array([a.get("bbox") or [0.0] * 4 for a in annotations], np.float64).reshape(-1, 4)
    areas = [a.get("area") for a in annotations]
    images = number_ids(image["id"] for image in records["images"])
    categories = number_ids(category["id"] for category in records["categories"])
    return GroundTruth(
        images=[image | {"id": images[comparable_id(image["id"])]} for image in records["images"]],
        categories=_unique_categories(records["categories"], categories),
        image_ids=np.array([images.get(comparable_id(a["image_id"]), 0) for a in annotations], np.int64),
        category_ids=np.array([categories.get(comparable_id(a["category_id"]), 0) for a in annotations], np.int64),
        boxes=boxes,
        area=np.where([area is None for area in areas], boxes[:, 2] * boxes[:, 3], np.array(areas, np.float64)),
        crowd=np.array([bool(a.get("iscrowd")) for a in annotations], bool),
        segmentations=[a.get("segmentation") for a in annotations],
        annotation_ids=[a["id"] for a in annotations],
    )


def _unique_categories(categories: list[dict[str, Any]], numbers: dict[Any, int]) -> list[dict[str, Any]]:
    """Return numbered categories; the id is appended to names that occur twice."""
    names = [category["name"] for category in categories]
    return [
        {"id": numbers[comparable_id(c["id"])], "name": name if names.count(name) == 1 else f"{name} ({c['id']})"}
        for c, name in zip(categories, names, strict=True)
    ]


def _segmentations(dataset: Dataset) -> list[Any]:
    by_image = (p.segmentations or [None] * len(p.labels) for p in dataset.images)
    return [None if value is None else segmentation_to_json(value) for value in chain.from_iterable(by_image)]


def _concatenate(parts: list[ndarray], empty: ndarray) -> ndarray:
    return np.concatenate([empty, *parts])


def _box_polygon(x: float, y: float, w: float, h: float) -> list[list[float]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]
