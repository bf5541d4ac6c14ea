"""Writes COCO records: ``train.json``, ``val.json``, … beside ``images/``."""

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
from libradet.files import write_json

USUAL = {"train", "val", "test"}


def names(split: str, dataset: Dataset, folders: Sequence[Path], known: Names) -> list[str]:
    """Names of pictures in ``images/``, which all splits share."""
    return [
        known.choose(picture.path, own_name(picture.path, folders, dataset.split), f"{split}/")
        for picture in dataset.pictures
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
    for record, picture, name in zip(content["images"], dataset.pictures, part.names, strict=True):
        record |= {"file_name": name}
        record |= other_fields(picture.records[0], IMAGE_FIELDS) if picture.records else {}
    own = [record for picture in dataset.pictures if picture.records for record in picture.records[1]]
    boxes = np.concatenate([np.empty((0, 4), np.float32), *(p.boxes for p in dataset.pictures)])
    xywh = boxes.astype(np.float64)
    xywh[:, 2:] -= xywh[:, :2]
    tidy = shortest(xywh, _corners, boxes).tolist()
    for record, box, other in zip(content["annotations"], tidy, own, strict=True):
        record |= {"bbox": box} | other_fields(other, BOX_FIELDS)
    return part.rest | content


def _corners(xywh: Float64[ndarray, "N 4"]) -> Float64[ndarray, "N 4"]:
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
