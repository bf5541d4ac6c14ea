"""Objects with masks, and a detector that knows them."""

from dataclasses import replace

import numpy as np
import torch
from known_answers import TruthDetector, make_dataset
from pycocotools import mask as reference

from libradet.data.rasterise import decode_masks
from libradet.data.records import Dataset, Picture
from libradet.geometry.masks import crop_masks
from libradet.models.config import MaskConfig


class MaskTruthDetector(TruthDetector):
    """Finds the objects of a data set with their masks, seen through boxes that are ``jitter`` pixels off."""

    def __init__(self, dataset: Dataset, names=None, jitter: float = 0.0):
        super().__init__(dataset, names, jitter)
        self.config.mask = MaskConfig()

    def forward(self, batch):
        found = super().forward(batch)
        masks = torch.zeros(*found.scores.shape, 28, 28)
        for i, index in enumerate(batch.index.tolist()):
            picture = self.dataset.pictures[index]
            truth = decode_masks(picture, picture.height, picture.width)[None]
            n = truth.shape[1]
            boxes = (found.boxes[i, :n] / batch.scales[i].repeat(2))[None]
            rows, valid = torch.arange(n)[None], torch.ones(1, n, dtype=torch.bool)
            masks[i, :n] = crop_masks(truth, boxes, rows, valid, 28, picture.width)[0]
        return found._replace(masks=masks)


def make_mask_dataset(folder, pictures=5) -> Dataset:
    """Ellipses that fill the boxes, as polygons and (every second one, and the crowd region) as run lengths."""
    dataset = make_dataset(folder, pictures)
    dataset.pictures[:] = [replace(p, segmentations=_ellipses(p)) for p in dataset.pictures]
    return dataset


def _ellipses(picture: Picture) -> list:
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found: list = []
    for i, box in enumerate(picture.boxes.astype(np.float64)):
        polygon = ((box[:2] + box[2:]) / 2 + circle * (box[2:] - box[:2]) / 2).round(2).ravel()
        runs = reference.frPyObjects([polygon.tolist()], picture.height, picture.width)[0]
        found.append(runs if i % 2 or picture.crowd[i] else [polygon.astype(np.float32)])
    return found
