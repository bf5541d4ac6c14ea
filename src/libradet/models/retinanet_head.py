"""One-stage head: classes and boxes at every anchor of every level (RetinaNet; Lin et al., ICCV 2017)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from libradet.data.batch import Batch
from libradet.geometry.boxes import clip_boxes, decode, is_larger
from libradet.geometry.indexing import gather_rows, topk_per_level
from libradet.geometry.matching import NEGATIVE, Matches
from libradet.models.anchor_generator import AnchorGenerator
from libradet.models.config import DetectionConfig, RetinaNetHeadConfig
from libradet.models.layers import conv_norm
from libradet.models.losses import focal_loss, localization_loss, num_samples_across_ranks
from libradet.models.nms import multiclass_nms
from libradet.structures import Detections


class RetinaNetOutput(NamedTuple):
    """Attributes:
    logits: of every class at every anchor, levels concatenated.
    deltas: from anchor to box.
    anchors: shared by all images.
    shapes: height and width of each level.
    """

    logits: Float[Tensor, "B A C"]
    deltas: Float[Tensor, "B A 4"]
    anchors: Float[Tensor, "A 4"]
    shapes: list[tuple[int, int]]


class RetinaNetHead(nn.Module):
    """Two towers of convolutions shared by all levels: one for classes, one for boxes.

    Attributes:
        config: anchors, layers, matching, losses and top-k.
        detections: NMS and score threshold.
        anchor_generator: of all levels.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        strides: Sequence[int],
        config: RetinaNetHeadConfig,
        detections: DetectionConfig,
    ) -> None:
        super().__init__()
        self.num_classes, self.config, self.detections = num_classes, config, detections
        self.anchor_generator = AnchorGenerator(strides, config.anchors)
        num_anchors = self.anchor_generator.num_anchors_per_location
        self.class_convs = nn.ModuleList(conv_norm(channels, channels, 3, config.norm) for _ in range(config.num_convs))
        self.box_convs = nn.ModuleList(conv_norm(channels, channels, 3, config.norm) for _ in range(config.num_convs))
        self.logits = nn.Conv2d(channels, num_anchors * num_classes, 3, padding=1)
        self.deltas = nn.Conv2d(channels, num_anchors * 4, 3, padding=1)
        # Every class starts at its prior probability: otherwise, the many negatives would dominate the first steps.
        prior_logit = -math.log(1 / config.prior_prob - 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.constant_(layer.bias, prior_logit if layer is self.logits else 0.0)

    def forward(self, features: Sequence[Float[Tensor, "B C _ _"]]) -> RetinaNetOutput:
        """Return the predictions for every anchor of every level."""
        return self.with_anchors(*self.predict(features), features)

    def predict(
        self, features: Sequence[Float[Tensor, "B _ _ _"]]
    ) -> tuple[Float[Tensor, "B A C"], Float[Tensor, "B A 4"]]:
        """Return logits and deltas of every anchor of every level."""
        logits, deltas = [], []
        for x in features:
            for_class, for_box = x, x
            for class_conv, box_conv in zip(self.class_convs, self.box_convs, strict=True):
                for_class, for_box = F.relu(class_conv(for_class)), F.relu(box_conv(for_box))
            logits.append(self.logits(for_class).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.num_classes))
            deltas.append(self.deltas(for_box).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4))
        return torch.cat(logits, 1).float(), torch.cat(deltas, 1).float()

    def with_anchors(
        self, logits: Float[Tensor, "B A C"], deltas: Float[Tensor, "B A 4"], features: Sequence[Tensor]
    ) -> RetinaNetOutput:
        """Return predictions together with the anchors of the levels."""
        return RetinaNetOutput(logits, deltas, *self.anchor_generator(features))

    def match(self, output: RetinaNetOutput, batch: Batch) -> tuple[Float[Tensor, "B A 4"], Matches]:
        """Match the anchors of each image to its ground truths; see :meth:`AnchorGenerator.match`."""
        return self.anchor_generator.match(output.anchors, output.shapes, batch, self.config.match)

    def losses(self, output: RetinaNetOutput, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Return ``class`` of all anchors and ``box`` of the positive ones, over the number of positives."""
        config = self.config
        anchors, matches = self.match(output, batch)
        gt = matches.gt
        labels = torch.where(gt >= 0, gather_rows(batch.labels, gt), self.num_classes)
        gt_boxes = gather_rows(batch.boxes, gt)
        count = num_samples_across_ranks(gt >= 0)
        loss = focal_loss(output.logits, labels, gt >= NEGATIVE, count, config.focal)
        return {
            "class": config.cls_loss_weight * loss,
            "box": localization_loss(output.deltas, anchors, gt_boxes, gt >= 0, count, config.box_loss),
        }

    def detect(self, output: RetinaNetOutput, sizes: Int[Tensor, "B 2"]) -> Detections:
        """Return the best boxes of images of ``sizes`` (height, width).

        Those are the ``topk_candidates`` best pairs of anchor and class of each level, decoded, clipped, after NMS
        within classes.
        """
        config, logits = self.config, output.logits.flatten(1)
        level_sizes = [size * self.num_classes for size in self.anchor_generator.level_sizes(output.shapes)]
        pairs = torch.cat(topk_per_level(logits, level_sizes, config.topk_candidates, config.topk_by), 1)
        index, labels = pairs // self.num_classes, pairs % self.num_classes
        scores = gather_rows(logits, pairs).sigmoid()
        boxes = decode(output.anchors[index], gather_rows(output.deltas, index))
        boxes = boxes if config.clip_last else clip_boxes(boxes, sizes)
        valid = (scores > self.detections.score_thresh) & is_larger(boxes, self.detections.min_size)
        rows, scores, kept = multiclass_nms(boxes, scores, labels, valid, self.detections)
        boxes, labels = gather_rows(boxes, rows), gather_rows(labels, rows)
        if config.clip_last:
            boxes = clip_boxes(boxes, sizes)
            kept = kept & is_larger(boxes, 0.0)
        return Detections(boxes * kept[..., None], scores * kept, labels * kept, kept)
