"""Detectors whose output is known."""

import numpy as np
import torch
from torch import nn

from libradet.data.batch import Batch
from libradet.data.masks import decode_masks
from libradet.data.records import Dataset
from libradet.geometry.masks import crop_masks
from libradet.models.config import DetectorConfig, ImageConfig, MaskConfig, RoIConfig, RPNConfig
from libradet.models.detector import Detector
from libradet.structures import Detections


class FixedDetector(Detector):
    """Returns fixed boxes for every image, in fractions of its width and height.

    ``batches`` has all batches so far.
    """

    def __init__(self, boxes=(), scores=(), labels=(), names=("cat", "dog"), size=(64, 96), slots=6):
        nn.Module.__init__(self)
        self.config = DetectorConfig(
            num_classes=len(names), class_names=tuple(names), image=ImageConfig(size), rpn=RPNConfig(), roi=RoIConfig()
        )
        self.weight = nn.Parameter(torch.zeros(1))
        self.norm = nn.BatchNorm2d(1)
        self.strides = [4, 8, 16, 32]
        self.slots = slots
        self.boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        self.scores, self.labels = torch.tensor(scores, dtype=torch.float32), torch.tensor(labels, dtype=torch.int64)
        self.batches: list[Batch] = []

    def forward(self, batch: Batch) -> Detections:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.batches.append(batch)
        sides = batch.sizes.flip(1).repeat(1, 2).float()
        count, num_boxes = len(sides), len(self.boxes)
        boxes, scores = torch.full((count, self.slots, 4), 7.0), torch.ones(count, self.slots)
        labels, valid = torch.zeros(count, self.slots, dtype=torch.int64), torch.zeros(count, self.slots).bool()
        boxes[:, :num_boxes] = self.boxes * sides[:, None]
        scores[:, :num_boxes], labels[:, :num_boxes], valid[:, :num_boxes] = self.scores, self.labels, True
        return Detections(boxes, scores, labels, valid)


class GroundTruthDetector(FixedDetector):
    """Returns the objects of a dataset, displaced by ``jitter`` pixels, with random scores."""

    def __init__(self, dataset: Dataset, names=None, jitter: float = 0.0):
        super().__init__(names=names or dataset.class_names, slots=110)
        self.dataset, self.jitter = dataset, jitter

    def forward(self, batch: Batch) -> Detections:
        count = len(batch.sizes)
        boxes, scores = torch.zeros(count, self.slots, 4), torch.zeros(count, self.slots)
        labels, valid = torch.zeros(count, self.slots, dtype=torch.int64), torch.zeros(count, self.slots).bool()
        for i, index in enumerate(batch.index.tolist()):
            image = self.dataset.images[index]
            rng = np.random.default_rng(index)
            displaced = image.boxes + rng.normal(0, self.jitter, image.boxes.shape)
            n = len(displaced)
            boxes[i, :n] = torch.as_tensor(displaced).float() * batch.scales[i].repeat(2)
            scores[i, :n] = torch.as_tensor(rng.uniform(0.1, 1, n)).float()
            labels[i, :n] = torch.tensor(
                [self.config.class_names.index(self.dataset.class_names[k]) for k in image.labels], dtype=torch.int64
            )
            valid[i, :n] = True
        return Detections(boxes, scores, labels, valid)


class GroundTruthMaskDetector(GroundTruthDetector):
    """Returns the objects of a dataset with their masks, cropped to boxes displaced by ``jitter`` pixels."""

    def __init__(self, dataset: Dataset, names=None, jitter: float = 0.0):
        super().__init__(dataset, names, jitter)
        self.config.mask = MaskConfig()

    def forward(self, batch):
        detections = super().forward(batch)
        masks = torch.zeros(*detections.scores.shape, 28, 28)
        for i, index in enumerate(batch.index.tolist()):
            image = self.dataset.images[index]
            truth = decode_masks(image, image.height, image.width)[None]
            n = truth.shape[1]
            boxes = (detections.boxes[i, :n] / batch.scales[i].repeat(2))[None]
            rows, valid = torch.arange(n)[None], torch.ones(1, n, dtype=torch.bool)
            masks[i, :n] = crop_masks(truth, boxes, rows, valid, 28, image.width)[0]
        return detections._replace(masks=masks)
