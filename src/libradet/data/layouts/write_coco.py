"""Writes COCO records: ``train.json``, ``val.json``, ... beside ``images/``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from libradet.data.layouts.naming import Names, own_name
from libradet.data.layouts.parts import Part, shortest
from libradet.data.read import to_coco
from libradet.data.records import BOX_FIELDS, IMAGE_FIELDS, Dataset, other_fields
from libradet.utils.atomic_io import write_json

USUAL = {"train", "val", "test"}


def names(split: str, dataset: Dataset, folders: Sequence[Path], known: Names) -> list[str]:
    """Names of images in ``images/``, which all splits share."""
    return [
        known.choose(image.path, own_name(image.path, folders, dataset.split), f"{split}/") for image in dataset.images
    ]


def write(root: Path, parts: Sequence[Part]) -> None:
    """Write all splits: as ``SPLIT.json``, or in COCO's own layout if one is none of train, val and test."""
    usual = {part.split for part in parts} <= USUAL
    for part in parts:
        name = f"{part.split}.json" if usual else f"annotations/instances_{part.split}.json"
        if [p.split for p in parts] == ["all"]:
            name = "annotations.json"
        write_json(root / name, _records(part))


def _records(part: Part) -> dict[str, Any]:
    """A split with its own ids, and every field that it came with."""
    dataset = part.dataset
    content = to_coco(dataset)
    for record, other in zip(content["categories"], part.categories, strict=True):
        record |= other
    for record, image, name in zip(content["images"], dataset.images, part.names, strict=True):
        record |= {"file_name": name}
        record |= other_fields(image.records[0], IMAGE_FIELDS) if image.records else {}
    own = [record for image in dataset.images if image.records for record in image.records[1]]
    boxes = np.concatenate([np.empty((0, 4), np.float32), *(p.boxes for p in dataset.images)])
    xywh = boxes.astype(np.float64)
    xywh[:, 2:] -= xywh[:, :2]
    tidy = shortest(xywh, _corners, boxes).tolist()
    for record, box, other in zip(content["annotations"], tidy, own, strict=True):
        record |= {"bbox": box} | other_fields(other, BOX_FIELDS)
    return part.rest | content


def _corners(xywh: Float64[ndarray, "N 4"]) -> Float64[ndarray, "N 4"]:
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
