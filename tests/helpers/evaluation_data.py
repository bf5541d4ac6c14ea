"""Datasets, batches and COCO records for tests of inference and evaluation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as reference

from libradet.data.batch import Batch
from libradet.data.records import Dataset, ImageRecord


def make_dataset(folder: Path, num_images: int = 5, seed: int = 0, names=("cat", "dog", "bird")) -> Dataset:
    """Return noise images of several shapes with random boxes, one crowd region, and one image without objects."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(num_images):
        width, height = [(60, 40), (40, 60), (50, 50)][i % 3]
        path = folder / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        count = {0: 4, 1: 0}.get(i, int(rng.integers(1, 5)))
        corner = rng.uniform(0, [width - 25, height - 25], (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(8, 25, (count, 2))], axis=1).astype(np.float32)
        records.append(
            ImageRecord(
                id=100 + 3 * i,
                path=path,
                width=width,
                height=height,
                boxes=boxes,
                labels=rng.integers(0, len(names), count),
                crowd=np.arange(count) == (3 if i == 0 else -1),
                area=(boxes[:, 2:] - boxes[:, :2]).prod(1).astype(np.float64),
                annotation_ids=np.arange(count) + 10 * i,
            )
        )
    return Dataset(folder, "val", records, [4 + 5 * k for k in range(len(names))], list(names))


def make_mask_dataset(folder, num_images=5) -> Dataset:
    """Return a dataset of ellipses inscribed in the boxes, alternately as polygons and RLE; crowd regions as RLE."""
    dataset = make_dataset(folder, num_images)
    dataset.images[:] = [replace(p, segmentations=_ellipses(p)) for p in dataset.images]
    return dataset


def _ellipses(image: ImageRecord) -> list:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    segmentations: list = []
    for i, box in enumerate(image.boxes.astype(np.float64)):
        polygon = ((box[:2] + box[2:]) / 2 + circle * (box[2:] - box[:2]) / 2).round(2).ravel()
        rle = reference.frPyObjects([polygon.tolist()], image.height, image.width)[0]
        segmentations.append(rle if i % 2 or image.crowd[i] else [polygon.astype(np.float32)])
    return segmentations


def make_batch(dataset, rows, scale=(1.0, 1.0)):
    """Return a batch of some images of a dataset, resized by ``scale``, with empty pixels."""
    images = [dataset.images[row] for row in rows]
    scales = torch.tensor([scale] * len(rows))
    sizes = torch.tensor([[p.height, p.width] for p in images])
    return Batch(
        images=torch.zeros(len(rows), 3, 1, 1),
        sizes=(sizes * scales.flip(1)).round().long(),
        boxes=torch.zeros(len(rows), 1, 4),
        labels=torch.full((len(rows), 1), -1),
        crowd=torch.zeros(len(rows), 1, dtype=torch.bool),
        index=torch.tensor(rows),
        scales=scales,
    )


def update_evaluator(evaluator, detector, rows, **kwargs):
    """Add a detector's output on some images to an evaluator."""
    with torch.no_grad():
        batch = make_batch(evaluator.dataset, rows, **kwargs)
        evaluator.update(detector.eval()(batch), batch)


def random_box(rng, width, height):
    w, h = np.exp(rng.uniform(np.log(4), np.log(0.9 * min(width, height)), 2))
    return [float(rng.uniform(0, width - w)), float(rng.uniform(0, height - h)), float(w), float(h)]


def random_case(seed, num_images=6, num_classes=4, max_truths=7, max_detections=15, rounding=1):
    """Return COCO ground truth with crowds, empty images and an empty class, and results with tied scores."""
    rng = np.random.default_rng(seed)
    categories = [{"id": 7 * k + 3, "name": f"class {k}"} for k in range(num_classes)]
    records = [{"id": 11 * i, "width": 320, "height": 240, "file_name": f"{i}.jpg"} for i in range(num_images)]
    annotations, results = [], []
    for image in records:
        for _ in range(rng.integers(0, max_truths)):
            box = random_box(rng, 320, 240)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image["id"],
                    "category_id": 7 * int(rng.integers(0, max(num_classes - 1, 1))) + 3,
                    "bbox": box,
                    "area": box[2] * box[3] * float(rng.uniform(0.5, 1)),
                    "iscrowd": int(rng.random() < 0.2),
                }
            )
        near = [a["bbox"] for a in annotations if a["image_id"] == image["id"]]
        for _ in range(rng.integers(0, max_detections)):
            box = random_box(rng, 320, 240)
            if near and rng.random() < 0.7:
                x, y, w, h = near[rng.integers(len(near))]
                jitter = rng.normal(0, 0.08, 4)
                box = [x + w * jitter[0], y + h * jitter[1], w * np.exp(jitter[2]), h * np.exp(jitter[3])]
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": 7 * int(rng.integers(0, num_classes)) + 3,
                    "bbox": [float(v) for v in box],
                    "score": round(float(rng.random()), rounding),
                }
            )
    return {"images": records, "categories": categories, "annotations": annotations}, results
