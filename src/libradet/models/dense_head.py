"""One stage: classes and boxes at every anchor of every level (RetinaNet; Lin et al., ICCV 2017)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from libradet.data.batch import Batch
from libradet.geometry.boxes import clip, decode, is_larger
from libradet.geometry.matching import NEGATIVE
from libradet.inference.detections import Detections
from libradet.models.anchor_grid import AnchorGrid, match_anchors
from libradet.models.config import DenseConfig, DetectionConfig
from libradet.models.layers import conv
from libradet.models.loss_terms import focal_loss, localization_loss, shared_count
from libradet.models.ranking import best
from libradet.models.samples import take
from libradet.models.survivors import survivors


class DenseOutput(NamedTuple):
    """Attributes:
    logits: of every class at every anchor, levels concatenated.
    deltas: from anchor to box.
    anchors: the same for every image.
    shapes: height and width of each level.
    """

    logits: Float[Tensor, "B A C"]
    deltas: Float[Tensor, "B A 4"]
    anchors: Float[Tensor, "A 4"]
    shapes: list[tuple[int, int]]


class DenseHead(nn.Module):
    """Two towers of convolutions that slide over all levels: one for classes, one for boxes."""

    def __init__(self, channels: int, num_classes: int, strides: Sequence[int], config: DenseConfig) -> None:
        super().__init__()
        self.grid = AnchorGrid(strides, config.anchors)
        self.per_cell, self.num_classes = self.grid.per_cell, num_classes
        self.class_convs = nn.ModuleList(conv(channels, channels, 3, config.norm) for _ in range(config.convs))
        self.box_convs = nn.ModuleList(conv(channels, channels, 3, config.norm) for _ in range(config.convs))
        self.logits = nn.Conv2d(channels, self.per_cell * num_classes, 3, padding=1)
        self.deltas = nn.Conv2d(channels, self.per_cell * 4, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    # Every class starts at its prior: else the many negatives would drown the first steps.
                    nn.init.constant_(layer.bias, -math.log(1 / config.prior - 1) if layer is self.logits else 0.0)

    def forward(self, pyramid: Sequence[Float[Tensor, "B C _ _"]]) -> DenseOutput:
        """Predictions for every anchor of every level."""
        logits, deltas = [], []
        for x in pyramid:
            for_class, for_box = x, x
            for class_conv, box_conv in zip(self.class_convs, self.box_convs, strict=True):
                for_class, for_box = F.relu(class_conv(for_class)), F.relu(box_conv(for_box))
            logits.append(self.logits(for_class).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.num_classes))
            deltas.append(self.deltas(for_box).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4))
        return DenseOutput(torch.cat(logits, 1).float(), torch.cat(deltas, 1).float(), *self.grid(pyramid))


def dense_losses(head: DenseHead, output: DenseOutput, batch: Batch, config: DenseConfig) -> dict[str, Tensor]:
    """``class`` of all anchors and ``box`` of the positive ones, over the number of positives."""
    strides, per_cell = head.grid.strides, head.per_cell
    anchors, matches = match_anchors(output.anchors, output.shapes, strides, per_cell, batch, config.match)
    gt = matches.gt
    labels, gt_boxes = torch.where(gt >= 0, take(batch.labels, gt), head.num_classes), take(batch.boxes, gt)
    count = shared_count(gt >= 0)
    return {
        "class": config.class_weight * focal_loss(output.logits, labels, gt >= NEGATIVE, count, config.focal),
        "box": localization_loss(output.deltas, anchors, gt_boxes, gt >= 0, count, config.box_loss),
    }


def dense_detect(
    head: DenseHead, output: DenseOutput, sizes: Int[Tensor, "B 2"], config: DenseConfig, detections: DetectionConfig
) -> Detections:
    """The ``per_level`` best pairs of anchor and class of each level, suppressed within classes, the best kept."""
    index, labels, scores = [], [], []
    start = 0
    for height, width in output.shapes:
        number = height * width * head.per_cell
        level = output.logits[:, start : start + number].flatten(1)
        pair = best(level, config.per_level, config.rank)
        index.append(pair // head.num_classes + start)
        labels.append(pair % head.num_classes)
        scores.append(take(level, pair).sigmoid())
        start += number
    index, labels, scores = torch.cat(index, 1), torch.cat(labels, 1), torch.cat(scores, 1)
    boxes = decode(output.anchors[index], take(output.deltas, index))
    boxes = boxes if config.clip_last else clip(boxes, sizes)
    valid = (scores > detections.score) & is_larger(boxes, detections.min_size)
    rows, scores, kept = survivors(boxes, scores, labels, valid, detections)
    boxes = take(boxes, rows)
    if config.clip_last:
        boxes = clip(boxes, sizes)
        kept = kept & is_larger(boxes, 0.0)
    return Detections(boxes * kept[..., None], scores * kept, take(labels, rows) * kept, kept)
