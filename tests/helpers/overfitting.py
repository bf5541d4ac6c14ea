"""Detectors that learn a handful of images by heart, with the recipe of a real run, and how well they do."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_iou

from libradet.data.batch import Batch
from libradet.data.loader import make_loader
from libradet.data.read import read
from libradet.data.records import Dataset
from libradet.data.synthesis.synthetic import synthesize
from libradet.data.transforms.augmentation import NO_AUGMENTATION
from libradet.evaluation.evaluator import CocoEvaluator
from libradet.inference.postprocess import postprocess
from libradet.models.build import create_model
from libradet.models.config import DetectorConfig
from libradet.models.detector import Detector
from libradet.models.zoo import make_config
from libradet.structures import Detections
from libradet.training.config import TrainConfig
from libradet.training.optim import build_optimizer, resolve

SIDE, IMAGES = 96, 4


def small_config(name: str, backbone: str = "test_resnet") -> DetectorConfig:
    """The zoo's entry with all its methods, narrow, for objects of 12 to 48 pixels."""
    config = make_config(name, 3, backbone)
    config.pyramid.channels = 64
    config.image.size, config.image.size_divisible = (SIDE, SIDE), SIDE
    if config.rpn is not None:
        config.rpn.anchors.scales = (4.0,)
        for proposals in (config.rpn.train_proposals, config.rpn.test_proposals):
            proposals.pre_nms_top_n, proposals.post_nms_top_n = 200, 100
    if config.roi is not None:
        config.roi.fc_dim, config.roi.sampling.batch_size_per_image = 128, 64
    if config.mask is not None:
        config.mask.channels, config.mask.num_convs = 32, 2
    if config.retinanet is not None:
        config.retinanet.anchors.scales, config.retinanet.num_convs = tuple(2 * 2 ** (i / 3) for i in range(3)), 1
    return config


def few_images(folder: Path) -> tuple[Dataset, Batch]:
    """Drawn images with masks, and all of them as one batch."""
    synthesize(folder, train=IMAGES, val=1, size=(SIDE, SIDE), classes=3, seed=1)
    dataset, _ = read(folder, "train", masks=True)
    loader = make_loader(
        dataset,
        size=(SIDE, SIDE),
        batch_size=IMAGES,
        training=True,
        size_divisible=SIDE,
        num_workers=0,
        seed=0,
        augmentation=NO_AUGMENTATION,
        masks=True,
    )
    return dataset, next(iter(loader))


def with_proposals(batch: Batch, seed: int = 0) -> Batch:
    """Ground truths moved about, some well and some badly, and boxes from anywhere."""
    g = torch.Generator().manual_seed(seed)
    sides = (batch.boxes[..., 2:] - batch.boxes[..., :2]).repeat(1, 1, 2)
    moved = [batch.boxes + sides * spread * torch.randn(sides.shape, generator=g) for spread in (0.05, 0.1, 0.1, 0.3)]
    corner = torch.rand(len(batch.boxes), 60, 2, generator=g) * (SIDE - 12)
    anywhere = torch.cat([corner, corner + 8 + 40 * torch.rand(corner.shape, generator=g)], -1)
    boxes = torch.cat([*moved, anywhere], 1).clamp(0, SIDE)
    whole = (boxes[..., 2:] > boxes[..., :2] + 1).all(-1)
    present = torch.cat([(batch.labels >= 0).repeat(1, 4), torch.ones(corner.shape[:2], dtype=torch.bool)], 1)
    return batch._replace(proposals=boxes * (whole & present)[..., None])


def learn(config: DetectorConfig, batch: Batch, steps: int, lr: float) -> Detector:
    """A detector after ``steps`` steps of SGD with warm-up, two drops and clipped gradients."""
    torch.manual_seed(0)
    model = create_model(config=config).train()
    recipe = resolve(TrainConfig("", max_epochs=steps, lr=lr, warmup_steps=10), batches_per_epoch=1)
    optimizer, schedule = build_optimizer(model, recipe, batches_per_epoch=1)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack(list(model(batch).values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip_val)
        optimizer.step()
        schedule.step()
    return model.eval()


def detections_of(model: Detector, batch: Batch) -> Detections:
    with torch.no_grad():
        return model(batch)


def box_ap50(detections: Detections, batch: Batch, dataset: Dataset) -> float:
    """COCO's AP50 of boxes."""
    evaluator = CocoEvaluator(dataset)
    evaluator.update(detections, batch)
    return evaluator.compute()["AP50"]


def mask_ap50(detections: Detections, batch: Batch, folder: Path) -> float:
    """COCO's AP50 of masks, by pycocotools on the annotations as they were written."""
    truth, results = COCO(str(folder / "train.json")), []
    names = [category["name"] for category in truth.cats.values()]
    for index, image_detections in zip(batch.index.tolist(), postprocess(detections, batch, names), strict=True):
        for mask, label, score in zip(
            image_detections.mask, image_detections.class_id, image_detections.confidence, strict=True
        ):
            results.append(
                {
                    "image_id": sorted(truth.imgs)[index],
                    "category_id": int(label) + 1,
                    "score": float(score),
                    "segmentation": rle.encode(np.asfortranarray(mask.astype(np.uint8))),
                }
            )
    evaluator_of_masks = COCOeval(truth, truth.loadRes(results), "segm")
    evaluator_of_masks.evaluate()
    evaluator_of_masks.accumulate()
    evaluator_of_masks.summarize()
    return float(evaluator_of_masks.stats[1])


def recall(detections: Detections, batch: Batch, iou: float = 0.5, limit: int = 100) -> float:
    """The share of ground truths that one of the ``limit`` best proposals covers."""
    hits: Sequence[bool] = []
    for b in range(len(batch.boxes)):
        boxes = detections.boxes[b, :limit][detections.valid[b, :limit]]
        truths = batch.boxes[b][batch.labels[b] >= 0]
        hits = [*hits, *(box_iou(truths, boxes).amax(1) >= iou).tolist()]
    return sum(hits) / len(hits)
