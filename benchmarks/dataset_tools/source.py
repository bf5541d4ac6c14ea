"""The dataset that all tools export: images with and without objects, boxes at borders, fractions of pixels."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("person", "traffic light", "dog", "bird")
"""No object is of the third: its number must not move those of others."""

IMAGES = {
    "a.png": ((101, 67), [("bird", (10.25, 20.5, 30.125, 40.75)), ("person", (0, 0, 101, 67))]),
    "b.jpg": (
        (200, 150),
        [("traffic light", (100, 75, 100, 75)), ("bird", (33.3, 44.4, 1, 1)), ("bird", (5, 6, 7, 8))],
    ),
    "c 1.jpg": (
        (640, 427),
        [("person", (0.49, 426 - 100.51, 639.51, 101.4)), ("person", (300.123, 200.456, 50.789, 60.012))],
    ),
    "d.jpg": ((64, 48), []),
}
"""Size, and objects as class and x, y, width, height, by file name."""


def write_source(folder: Path) -> None:
    """Write the dataset in COCO format, with ids from 1."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for image_id, (name, ((width, height), objects)) in enumerate(IMAGES.items(), start=1):
        pixels = np.random.default_rng(image_id).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for class_name, (x, y, w, h) in objects:
            fields = {"id": len(annotations) + 1, "image_id": image_id, "category_id": CLASSES.index(class_name) + 1}
            shape = {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "segmentation": []}
            annotations.append(fields | shape)
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(CLASSES, start=1)]
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
