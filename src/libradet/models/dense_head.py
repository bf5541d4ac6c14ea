"""One stage: classes and boxes at every anchor of every level (RetinaNet; Lin et al., ICCV 2017)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from libradet.data.batch import Batch
from libradet.geometry.anchors import base_anchors, grid_anchors, inside_picture
from libradet.geometry.boxes import clip, decode, is_larger
from libradet.geometry.matching import IGNORED, NEGATIVE, ignore_in_crowd, match
from libradet.geometry.suppression import suppress
from libradet.models.config import DenseConfig, DetectionConfig
from libradet.models.detections import Detections
from libradet.models.layers import conv
from libradet.models.losses import focal_loss, localisation_loss, shared_count
from libradet.models.ranking import best
from libradet.models.sampling import take


class DenseOutput(NamedTuple):
    """Attributes:
    logits: of every class at every anchor, levels concatenated.
    deltas: from anchor to box.
    anchors: the same for every picture.
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
        a = config.anchors
        self.fitted = a.fitted
        self.strides, self.num_classes = list(strides), num_classes
        self.per_cell = len(a.scales) * len(a.ratios)
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
        for i, stride in enumerate(self.strides):
            anchors = base_anchors(stride, a.scales, a.ratios, a.offset, a.rounded, a.truncated)
            self.register_buffer(f"base_anchors_{i}", anchors, persistent=False)

    def forward(self, pyramid: Sequence[Float[Tensor, "B C _ _"]]) -> DenseOutput:
        """Predictions for every anchor of every level."""
        logits, deltas, anchors, shapes = [], [], [], []
        rows, columns = (side * self.strides[0] for side in pyramid[0].shape[2:])
        canvas = (rows, columns) if self.fitted else None
        for i, (x, stride) in enumerate(zip(pyramid, self.strides, strict=True)):
            height, width = x.shape[2:]
            shapes.append((height, width))
            anchors.append(grid_anchors(self.get_buffer(f"base_anchors_{i}"), height, width, stride, canvas))
            for_class, for_box = x, x
            for class_conv, box_conv in zip(self.class_convs, self.box_convs, strict=True):
                for_class, for_box = F.relu(class_conv(for_class)), F.relu(box_conv(for_box))
            logits.append(self.logits(for_class).permute(0, 2, 3, 1).reshape(len(x), -1, self.num_classes))
            deltas.append(self.deltas(for_box).permute(0, 2, 3, 1).reshape(len(x), -1, 4))
        return DenseOutput(torch.cat(logits, 1).float(), torch.cat(deltas, 1).float(), torch.cat(anchors), shapes)


def dense_losses(head: DenseHead, output: DenseOutput, batch: Batch, config: DenseConfig) -> dict[str, Tensor]:
    """``class`` of all anchors and ``box`` of the positive ones, over the number of positives."""
    with torch.no_grad():
        inside = inside_picture(output.shapes, head.strides, head.per_cell, batch.sizes)
        # Emptied before they are matched: an anchor in the padding must not be the best of any ground truth.
        anchors = output.anchors * inside[..., None]
        m = config.match
        matches = match(
            anchors,
            batch.boxes,
            (batch.labels >= 0) & ~batch.crowd,
            positive=m.positive,
            negative=m.negative,
            low_quality=m.low_quality,
            min_positive=m.min_positive,
        )
        matches = ignore_in_crowd(matches, anchors, batch.boxes, batch.crowd, m.crowd)
        gt = torch.where(inside, matches.gt, IGNORED)
        labels = torch.where(gt >= 0, take(batch.labels, gt), head.num_classes)
        gt_boxes = take(batch.boxes, gt)
    count = shared_count(gt >= 0)
    return {
        "class": config.class_weight * focal_loss(output.logits, labels, gt >= NEGATIVE, count, config.focal),
        "box": localisation_loss(output.deltas, anchors, gt_boxes, gt >= 0, count, config.box_loss),
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
    rows, kept = suppress(boxes, scores, labels, valid, threshold=detections.nms, size=detections.total)
    boxes = take(boxes, rows)
    if config.clip_last:
        boxes = clip(boxes, sizes)
        kept = kept & is_larger(boxes, 0.0)
    return Detections(boxes * kept[..., None], take(scores, rows) * kept, take(labels, rows) * kept, kept)
