"""Small COCO datasets for tests, valid or damaged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from libradet.data.read import read

SIZES = [(64, 48), (48, 64), (50, 50), (64, 48)]
"""Width and height of the images of :func:`records`."""


def sample_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return an image with color gradients that differ in every corner and along every axis."""
    y, x = np.mgrid[:height, :width]
    planes = [255 * x / width, 255 * y / height, 40 * (seed % 6) + 0 * x]
    return Image.fromarray(np.stack(planes, 2).astype(np.uint8))


def records() -> dict[str, Any]:
    """Return a valid COCO dataset: four images, the last one without a box, three classes with gaps in their ids."""
    images = [{"id": 10 + i, "file_name": f"p{i}.png", "width": w, "height": h} for i, (w, h) in enumerate(SIZES)]
    boxes = [(0, 1, [4, 6, 20, 30]), (0, 7, [10.5, 2.25, 30, 12]), (1, 1, [1, 1, 40, 60]), (2, 9, [5, 6, 7, 8])]
    annotations = [
        {"id": 100 + i, "image_id": 10 + row, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
        for i, (row, c, b) in enumerate(boxes)
    ]
    categories = [{"id": 7, "name": "dog"}, {"id": 1, "name": "cat"}, {"id": 9, "name": "hen"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write(root: Path, content: Any = None, name: str = "annotations.json", images: str = "images") -> Path:
    """Write records (by default those of :func:`records`) and the images of :func:`records`."""
    content = records() if content is None else content
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content), encoding="utf-8")
    write_images(root / images)
    return root


def write_images(folder: Path) -> None:
    """Write the images of :func:`records`."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, (width, height) in enumerate(SIZES):
        sample_image(width, height, i).save(folder / f"p{i}.png")


def damaged(root: Path, damage: Callable[[dict[str, Any]], Any]) -> Path:
    """Write a dataset whose records were changed by ``damage``."""
    content = records()
    damage(content)
    return write(root, content)


def essence(root: Path, split: str | None = None) -> list:
    """Return file names, sizes, class names and boxes of a dataset, independent of its ids."""
    dataset, report = read(root, split)
    assert report.skipped + report.warnings == []
    return [
        (p.path.name, p.width, p.height, [dataset.class_names[k] for k in p.labels], p.boxes.round(3).tolist())
        for p in sorted(dataset.images, key=lambda p: p.path.name)
    ]
