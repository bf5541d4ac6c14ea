"""Datumaro: all its formats for detection that libradet reads."""

from functools import partial
from pathlib import Path

from common import IMAGES, export, read_source
from datumaro.components.annotation import Bbox
from datumaro.components.dataset import Dataset
from datumaro.components.dataset_base import DatasetItem
from datumaro.components.media import Image

FORMATS = ("datumaro", "coco_instances", "voc_detection", "yolo", "yolo_ultralytics", "cvat")


def write(folder: Path, name: str) -> None:
    """Export with images."""
    images, classes = read_source()
    items, count = [], 0
    for image in images:
        boxes = [
            Bbox(*box, label=classes.index(label), id=count + i, group=count + i)
            for i, (label, box) in enumerate(image.objects, start=1)
        ]
        count += len(boxes)
        subset = "val" if image is images[-1] else "train"  # the last has no objects
        media = Image.from_file(str(IMAGES / image.name))
        items.append(DatasetItem(Path(image.name).stem, subset=subset, media=media, annotations=boxes))
    Dataset.from_iterable(items, categories=classes).export(str(folder), name, save_media=True)


export({name: partial(write, name=name) for name in FORMATS})
