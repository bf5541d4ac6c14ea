"""Box head: classification and refinement of proposals (Fast R-CNN), and prediction of their IoU (IoU-Net)."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from libradet.balance import generate_boxes
from libradet.data.batch import Batch
from libradet.geometry.boxes import clip_boxes, decode
from libradet.geometry.indexing import gather_rows
from libradet.geometry.matching import IGNORED, Matches
from libradet.geometry.roi_align import pyramid_roi_align
from libradet.models.class_balance import build_class_balance, class_scores, uses_sigmoid
from libradet.models.config import RoIAlignConfig, RoIConfig
from libradet.models.empty_slots import count_used_slots
from libradet.models.layers import conv_norm
from libradet.models.losses import class_loss, iou_prediction_loss, localization_loss, num_samples_across_ranks
from libradet.models.ops.packed_linear import pack_linear_layers
from libradet.models.ops.pooled_linear import PooledLinear
from libradet.models.ops.quantized_layers import ActivationRange, quantize_layers
from libradet.models.rpn import Proposals
from libradet.models.sampling import build_progress, match_to_gt, max_positives, sample, uses_ohem

PRIOR_PROB = 0.001
"""Score of every class at the start of training where each class is a classifier of its own (Tan et al., 2021)."""


class BoxHeadOutput(NamedTuple):
    """Predictions of a box head, for regions of all images in sequence (N is R) or per image (N is B P).

    Attributes:
        logits: of each class, background last.
        deltas: from region to box, of each class or one for all.
        iou: expected IoU of this box with its object, -1..1 for 0..1; None if the head does not predict it.
    """

    logits: Float[Tensor, "*N C1"]
    deltas: Float[Tensor, "*N C4 4"]
    iou: Float[Tensor, "*N C4"] | None = None


class SampledProposals(NamedTuple):
    """The proposals that enter the losses, positives in the first slots.

    Attributes:
        boxes: xyxy in pixels of the resized image.
        gt: row of the matched ground truth, negative where there is none.
        labels: 0..C-1, background C.
        valid: whether the slot is filled.
        positive: whether the slot holds a positive.
        added: whether it is a ground truth, or a box generated from one, that was added to the proposals.
        weight: of each sample in the classification loss; None where all are equal.
    """

    boxes: Float[Tensor, "B S 4"]
    gt: Int[Tensor, "B S"]
    labels: Int[Tensor, "B S"]
    valid: Bool[Tensor, "B S"]
    positive: Bool[Tensor, "B S"]
    added: Bool[Tensor, "B S"]
    weight: Float[Tensor, "B S"] | None = None


class BoxHead(nn.Module):
    """Shared layers (convolutions, if any, then ``fc1``, ...), then class logits (background last) and deltas.

    With ``config.iou``, a further layer ``iou``.

    Attributes:
        config: pooling, layers, matching, sampling and losses.
        strides: of the pyramid levels.
    """

    def __init__(self, channels: int, num_classes: int, strides: Sequence[int], config: RoIConfig) -> None:
        super().__init__()
        self.num_classes, self.strides, self.config = num_classes, list(strides), config
        self.pooled_fc1: PooledLinear | None = None  # set by pack
        self.convs = nn.ModuleList(conv_norm(channels, channels, 3, config.norm) for _ in range(config.num_convs))
        for layer in self.convs.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        widths = [channels * config.align.output_size**2] + [config.fc_dim] * config.num_fcs
        shared = [nn.Linear(a, b) for a, b in pairwise(widths)]
        self.fc_names = [f"fc{i}" for i in range(1, config.num_fcs + 1)]
        for name, layer in zip(self.fc_names, shared, strict=True):
            self.add_module(name, layer)
        self.logits = nn.Linear(config.fc_dim, num_classes + 1)
        boxes = 1 if config.class_agnostic else num_classes
        self.deltas = nn.Linear(config.fc_dim, 4 * boxes)
        self.iou = nn.Linear(config.fc_dim, boxes) if config.iou else None
        for layer in shared:
            nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(self.logits.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        self.class_balance = build_class_balance(config.class_balance, num_classes)
        self.register_buffer("progress", build_progress(config.sampling), persistent=False)
        outputs = [self.logits, self.deltas]
        if self.iou is not None:
            nn.init.normal_(self.iou.weight, std=0.01)
            outputs.append(self.iou)
        for layer in (*shared, *outputs):
            nn.init.zeros_(layer.bias)
        if uses_sigmoid(config.class_balance):
            nn.init.constant_(self.logits.bias, -math.log((1 - PRIOR_PROB) / PRIOR_PROB))

    def forward(self, x: Float[Tensor, "R C size size"]) -> BoxHeadOutput:
        """Return the predictions for each region, from its pooled features."""
        for layer in self.convs:
            x = F.relu(layer(x))
        return self._predict(x.flatten(1), self.fc_names)

    def _predict(self, x: Float[Tensor, "R _"], fc_names: Sequence[str]) -> BoxHeadOutput:
        for name in fc_names:
            x = F.relu(getattr(self, name)(x))
        iou = None if self.iou is None else self.iou(x).float()
        return BoxHeadOutput(self.logits(x).float(), self.deltas(x).float().unflatten(1, (-1, 4)), iou)

    def hidden_layers(self) -> list[nn.Module]:
        """Return the convolutions and linear layers before those of the outputs."""
        convs = [layer for layer in self.convs.modules() if isinstance(layer, nn.Conv2d)]
        return [*convs, *(getattr(self, name) for name in self.fc_names)]

    def pack(self, ranges: Mapping[nn.Module, ActivationRange] | None = None) -> None:
        """Prepare the layers for inference on a CPU: RoIAlign and ``fc1`` become one step, weights are packed.

        Args:
            ranges: of the inputs of layers that are computed in INT8.
        """
        if not torch.backends.mkldnn.is_available() or self.logits.weight.device.type != "cpu":
            return
        ranges = ranges or {}
        fc1 = getattr(self, "fc1", None)
        if isinstance(fc1, nn.Linear) and not self.convs:
            self.pooled_fc1 = PooledLinear(fc1, self.strides, self.config.align, ranges.get(fc1))
            self.fc1 = nn.Identity()  # its weights are not needed twice
        quantize_layers(self, ranges)
        pack_linear_layers(self)

    @property
    def max_positives(self) -> int:
        """Number of slots of a sample, the first ones, that may hold positives."""
        return max_positives(self.config.sampling)

    def run_box_head(
        self, features: Sequence[Tensor], boxes: Float[Tensor, "B N 4"], valid: Bool[Tensor, "B N"]
    ) -> BoxHeadOutput:
        """Pool the features of each image's boxes, and return the predictions for them."""
        if self.pooled_fc1 is None:
            output = self(roi_pool(features, boxes, valid, self.strides, self.config.align))
        else:
            output = self._predict(F.relu(self.pooled_fc1(features, boxes, valid)), self.fc_names[1:])
        iou = None if output.iou is None else output.iou.unflatten(0, valid.shape)
        return BoxHeadOutput(output.logits.unflatten(0, valid.shape), output.deltas.unflatten(0, valid.shape), iou)

    @torch.no_grad()
    def sample_proposals(self, features: Sequence[Tensor], proposals: Proposals, batch: Batch) -> SampledProposals:
        """Match proposals to ground truths, and sample those that enter the losses.

        In eager mode on a CPU, last slots that are empty in all images are left out.
        """
        config = self.config
        boxes, valid = training_candidates(proposals, batch, config)
        matches = match_proposals(boxes, valid, batch, config)
        proposal_loss = None
        if uses_ohem(config.sampling):
            logits = self.run_box_head(features, boxes, matches.gt >= -1).logits
            proposal_loss = self._ranking_losses(logits, labels_of(matches.gt, batch, self.num_classes))
        samples = sample(
            matches,
            batch.boxes.shape[1],
            config.sampling,
            config.match.bg_iou_thresh,
            proposal_loss,
            score=pad_scores(proposals.scores, boxes.shape[1]),
            progress=self.progress,
        )
        gt = gather_rows(matches.gt, samples.index)
        sampled = SampledProposals(
            boxes=gather_rows(boxes, samples.index),
            gt=gt,
            labels=labels_of(gt, batch, self.num_classes),
            valid=samples.valid,
            positive=samples.positive,
            added=samples.index >= proposals.boxes.shape[1],
            weight=samples.weight,
        )
        return first_slots(sampled, count_used_slots(sampled.valid))

    def _ranking_losses(self, logits: Float[Tensor, "B N C1"], labels: Int[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """Return the loss by which OHEM ranks candidates: the one that is trained, without counting its classes.

        A focal loss ranks as cross entropy does, which is used in its place: positives and negatives are ranked apart.
        """
        logits, flat_labels = logits.flatten(0, 1), labels.flatten()
        if self.class_balance is None:
            return F.cross_entropy(logits, flat_labels, reduction="none").view(labels.shape)
        return self.class_balance.sample_losses(logits, flat_labels).view(labels.shape)

    def scores(self, logits: Float[Tensor, "*N C1"]) -> Float[Tensor, "*N C1"]:
        """Return the score of each class, background last."""
        return class_scores(logits, self.config.class_balance)

    def sample_losses(
        self, features: Sequence[Tensor], samples: SampledProposals, batch: Batch
    ) -> tuple[dict[str, Float[Tensor, ""]], Float[Tensor, "B S C4 4"]]:
        """Return ``class``, ``box``, and ``iou`` if the head predicts it; and the predicted deltas."""
        config = self.config
        output = self.run_box_head(features, samples.boxes, samples.valid)
        count = num_samples_across_ranks(samples.valid)
        positives = first_slots(samples, self.max_positives)
        boxes, gt, labels, positive = positives.boxes, positives.gt, positives.labels, positives.positive
        deltas = select_class(output.deltas[:, : self.max_positives], labels)
        gt_boxes = gather_rows(batch.boxes, gt)
        loss = class_loss(
            output.logits, samples.labels, samples.valid, count, config.focal, samples.weight, self.class_balance
        )
        losses = {
            "class": config.cls_loss_weight * loss,
            "box": localization_loss(deltas, boxes, gt_boxes, positive, count, config.box_loss, config.box_std),
        }
        if output.iou is not None and config.iou is not None:
            refined = clip_boxes(decode(boxes, deltas.detach(), config.box_std), batch.sizes)
            expected = select_class(output.iou[:, : self.max_positives, :, None], labels).squeeze(2)
            losses["iou"] = iou_prediction_loss(expected, refined, gt_boxes, positive, config.iou)
        return losses, output.deltas


def roi_pool(
    features: Sequence[Tensor],
    boxes: Float[Tensor, "B N 4"],
    valid: Bool[Tensor, "B N"],
    strides: Sequence[int],
    config: RoIAlignConfig,
) -> Float[Tensor, "R C size size"]:
    """Apply RoIAlign to the boxes of every image, on the finest ``config.num_levels`` pyramid levels."""
    return pyramid_roi_align(
        features[: config.num_levels],
        boxes,
        valid,
        strides[: config.num_levels],
        size=config.output_size,
        sampling_ratio=config.sampling_ratio,
        aligned=config.aligned,
        canonical_size=config.canonical_size,
        canonical_level=config.canonical_level,
    )


def first_slots(samples: SampledProposals, count: int) -> SampledProposals:
    """Return the samples in the first ``count`` slots of each image."""
    *tensors, weight = samples
    first = SampledProposals(*(t[:, :count] for t in tensors if t is not None))
    return first if weight is None else first._replace(weight=weight[:, :count])


def match_proposals(
    boxes: Float[Tensor, "B N 4"], valid: Bool[Tensor, "B N"], batch: Batch, config: RoIConfig
) -> Matches:
    """Match proposals to the ground truths of their image; padding is ignored."""
    matches = match_to_gt(boxes, batch, config.match)
    return matches._replace(gt=matches.gt.masked_fill(~valid, IGNORED))


def training_candidates(
    proposals: Proposals, batch: Batch, config: RoIConfig
) -> tuple[Float[Tensor, "B N 4"], Bool[Tensor, "B N"]]:
    """Return the boxes to sample from, and which are real.

    These are the proposals, then ground truths if they are added to them, then boxes that are generated from these.
    """
    boxes, valid = [proposals.boxes], [proposals.valid]
    objects = (batch.labels >= 0) & ~batch.crowd
    if config.add_gt_as_proposals:
        boxes.append(batch.boxes)
        valid.append(objects)
    if config.generated_boxes:
        min_iou = max(config.match.fg_iou_thresh, 0.5)
        boxes.append(clip_boxes(generate_boxes(batch.boxes, config.generated_boxes, min_iou), batch.sizes))
        valid.append(objects.repeat_interleave(config.generated_boxes, dim=1))
    return torch.cat(boxes, 1), torch.cat(valid, 1)


def pad_scores(scores: Float[Tensor, "B P"], size: int) -> Float[Tensor, "B {size}"]:
    """Return the scores of candidates: those of proposals, then 1 for boxes that were added to them."""
    return F.pad(scores, (0, size - scores.shape[1]), value=1.0)


def labels_of(gt: Int[Tensor, "B N"], batch: Batch, background: int) -> Int[Tensor, "B N"]:
    """Return the class of the ground truth that each candidate is matched to, ``background`` if there is none."""
    return torch.where(gt >= 0, gather_rows(batch.labels, gt), background)


def select_class(values: Float[Tensor, "B S C4 X"], labels: Int[Tensor, "B S"]) -> Float[Tensor, "B S X"]:
    """Return the values, such as deltas, of each sample's class; class-agnostic heads have one set for all classes."""
    row = labels.clamp(0, values.shape[2] - 1)[..., None, None].expand(-1, -1, 1, values.shape[3])
    return values.gather(2, row).squeeze(2)
