"""Detectors and batches small enough for a test."""

import torch

from libradet.data.batch import Batch
from libradet.models.config import DetectorConfig
from libradet.models.detector import Detector
from libradet.models.zoo import make_config


def tiny_config(name: str = "libra_faster_rcnn", num_classes: int = 3, backbone: str = "resnet18") -> DetectorConfig:
    """The zoo's configuration on ResNet-18 with narrow heads."""
    config = make_config(name, num_classes, backbone)
    config.class_names = tuple(f"class_{i}" for i in range(num_classes))
    config.pyramid.channels, config.roi.width = 16, 32
    config.rpn.train_proposals.total = config.rpn.test_proposals.total = 60
    return config


def take_all_samples(config: DetectorConfig) -> DetectorConfig:
    """Sampling without chance: there is room for every candidate."""
    for sampling in (config.rpn.sampling, config.roi.sampling):
        sampling.size, sampling.positive_fraction, sampling.negatives_per_positive = 8192, 0.5, None
    config.roi.sampling.size = 256
    return config


def tiny_detector(config: DetectorConfig | None = None, seed: int = 0) -> Detector:
    """Scores and boxes of a fresh detector hardly differ; this one's do."""
    torch.manual_seed(seed)
    model = Detector(config or tiny_config())
    for layer, std in (
        (model.rpn.logits, 0.3),
        (model.rpn.deltas, 0.05),
        (model.roi.logits, 1.0),
        (model.roi.deltas, 0.2),
    ):
        torch.nn.init.normal_(layer.weight, std=std)
    return model


def tiny_batch(
    boxes=((5, 6, 50, 40), (30, 20, 90, 60)), labels=(0, 2), crowd=None, pictures=2, size=(64, 96), seed=1
) -> Batch:
    """``pictures`` random pictures that all have the given ground truths; none stands for a picture without objects."""
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (pictures, 3, *size), dtype=torch.uint8, generator=g)
    boxes, labels = (boxes, labels) if len(boxes) else (((0, 0, 0, 0),), (-1,))
    crowd = [False] * len(boxes) if crowd is None else crowd
    return Batch(
        images,
        torch.tensor([size] * pictures),
        torch.tensor(boxes, dtype=torch.float32).expand(pictures, -1, -1).clone(),
        torch.tensor(labels).expand(pictures, -1).clone(),
        torch.tensor(crowd).expand(pictures, -1).clone(),
    )
