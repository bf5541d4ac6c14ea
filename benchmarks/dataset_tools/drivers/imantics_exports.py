"""imantics: COCO."""

import json
from pathlib import Path

from common import IMAGES, copy_images, export, read_source
from imantics import BBox, Category, Dataset, Image


def write_coco(folder: Path) -> None:
    """Write COCO."""
    images, classes = read_source()
    categories = {name: Category(name, id=i) for i, name in enumerate(classes, start=1)}
    dataset = Dataset("tools")
    for number, source in enumerate(images, start=1):
        image = Image.from_path(str(IMAGES / source.name))
        image.id = number
        for label, (x, y, w, h) in source.objects:
            image.add(BBox([x, y, x + w, y + h]), category=categories[label])
        dataset.add(image)
    copy_images(folder / "images")
    (folder / "annotations.json").write_text(json.dumps(dataset.coco()))


export({"COCO": write_coco})
