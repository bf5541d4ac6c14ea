"""Objects with masks, and a detector that knows them."""

from dataclasses import replace

import numpy as np
import torch
from known_answers import TruthDetector, make_dataset
from pycocotools import mask as reference

from libradet.data.rasterize import decode_masks
from libradet.data.records import Dataset, ImageRecord
from libradet.geometry.masks import crop_masks
from libradet.models.config import MaskConfig


class MaskTruthDetector(TruthDetector):
    """Finds the objects of a dataset with their masks, seen through boxes that are ``jitter`` pixels off."""

    def __init__(self, dataset: Dataset, names=None, jitter: float = 0.0):
        super().__init__(dataset, names, jitter)
        self.config.mask = MaskConfig()

    def forward(self, batch):
        found = super().forward(batch)
        masks = torch.zeros(*found.scores.shape, 28, 28)
        for i, index in enumerate(batch.index.tolist()):
            image = self.dataset.images[index]
            truth = decode_masks(image, image.height, image.width)[None]
            n = truth.shape[1]
            boxes = (found.boxes[i, :n] / batch.scales[i].repeat(2))[None]
            rows, valid = torch.arange(n)[None], torch.ones(1, n, dtype=torch.bool)
            masks[i, :n] = crop_masks(truth, boxes, rows, valid, 28, image.width)[0]
        return found._replace(masks=masks)


def make_mask_dataset(folder, images=5) -> Dataset:
    """Ellipses that fill the boxes, as polygons and (every second one, and the crowd region) as run lengths."""
    dataset = make_dataset(folder, images)
    dataset.images[:] = [replace(p, segmentations=_ellipses(p)) for p in dataset.images]
    return dataset


def _ellipses(image: ImageRecord) -> list:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found: list = []
    for i, box in enumerate(image.boxes.astype(np.float64)):
        polygon = ((box[:2] + box[2:]) / 2 + circle * (box[2:] - box[:2]) / 2).round(2).ravel()
        runs = reference.frPyObjects([polygon.tolist()], image.height, image.width)[0]
        found.append(runs if i % 2 or image.crowd[i] else [polygon.astype(np.float32)])
    return found
