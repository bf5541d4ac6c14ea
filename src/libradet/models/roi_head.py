"""Second stage: classify and refine proposals (Fast R-CNN on a pyramid), and say how well they lie (IoU-Net)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from libradet.data.batch import Batch
from libradet.errors import UserError
from libradet.geometry.boxes import area, clip, decode, is_larger
from libradet.geometry.matching import IGNORED, Matches
from libradet.geometry.roi_align import pyramid_roi_align
from libradet.inference.detections import Detections
from libradet.models.anchor_grid import match_objects
from libradet.models.config import DetectionConfig, RoIAlignConfig, RoIConfig
from libradet.models.layers import conv
from libradet.models.loss_terms import class_loss, iou_prediction_loss, localization_loss, shared_count
from libradet.models.rpn import Proposals
from libradet.models.samples import num_positive_slots, sample, take
from libradet.models.survivors import survivors


class RegionOutput(NamedTuple):
    """What a second stage says of regions: of all in a row (N is R), or image by image (N is B P).

    Attributes:
        logits: of each class, background last.
        deltas: from region to box, of each class or one for all.
        iou: expected IoU of this box with its object, -1..1 for 0..1; None if the stage does not say.
    """

    logits: Float[Tensor, "*N C1"]
    deltas: Float[Tensor, "*N C4 4"]
    iou: Float[Tensor, "*N C4"] | None = None


class BoxHead(nn.Module):
    """Shared layers (convolutions, if any, then ``fc1``, ...), then class logits (background last) and deltas.

    With ``config.iou``, a further layer ``iou``.
    """

    def __init__(self, channels: int, num_classes: int, config: RoIConfig) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv(channels, channels, 3, config.norm) for _ in range(config.convs))
        for layer in self.convs.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        widths = [channels * config.align.size**2] + [config.width] * config.fcs
        shared = [nn.Linear(a, b) for a, b in pairwise(widths)]
        self.fc_names = [f"fc{i}" for i in range(1, config.fcs + 1)]
        for name, layer in zip(self.fc_names, shared, strict=True):
            self.add_module(name, layer)
        self.logits = nn.Linear(config.width, num_classes + 1)
        boxes = 1 if config.class_agnostic else num_classes
        self.deltas = nn.Linear(config.width, 4 * boxes)
        self.iou = nn.Linear(config.width, boxes) if config.iou else None
        for layer in shared:
            nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(self.logits.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        outputs = [self.logits, self.deltas]
        if self.iou is not None:
            nn.init.normal_(self.iou.weight, std=0.01)
            outputs.append(self.iou)
        for layer in (*shared, *outputs):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "R C size size"]) -> RegionOutput:
        """What it says of each region."""
        for layer in self.convs:
            x = F.relu(layer(x))
        x = x.flatten(1)
        for name in self.fc_names:
            x = F.relu(getattr(self, name)(x))
        iou = None if self.iou is None else self.iou(x).float()
        return RegionOutput(self.logits(x).float(), self.deltas(x).float().unflatten(1, (-1, 4)), iou)


class RegionSamples(NamedTuple):
    """The proposals that a loss sees, positives in the first slots.

    Attributes:
        boxes: xyxy in pixels of the resized image.
        gt: row of the ground truth that each stands for, negative where none.
        labels: 0..C-1, background C.
        valid: whether the slot is filled.
        positive: whether it holds a positive.
        added: whether it is a ground truth that was added to the proposals.
    """

    boxes: Float[Tensor, "B S 4"]
    gt: Int[Tensor, "B S"]
    labels: Int[Tensor, "B S"]
    valid: Bool[Tensor, "B S"]
    positive: Bool[Tensor, "B S"]
    added: Bool[Tensor, "B S"]


def given_proposals(batch: Batch) -> Proposals:
    """Those that came with the batch. Raises UserError if none did."""
    if batch.proposals is None:
        raise UserError(
            "a detector without rpn looks for objects in proposals that it is given, and it was given none; "
            "libradet predict writes them with a model that proposes, such as rpn"
        )
    valid = area(batch.proposals) > 0
    return Proposals(batch.proposals, valid.float(), valid)


def pool(
    pyramid: Sequence[Tensor], boxes: Tensor, valid: Tensor, strides: Sequence[int], config: RoIAlignConfig
) -> Float[Tensor, "R C size size"]:
    """RoIAlign of every image's boxes from the levels that the second stage reads."""
    return pyramid_roi_align(
        pyramid[: config.levels],
        boxes,
        valid,
        strides[: config.levels],
        size=config.size,
        sampling_ratio=config.sampling_ratio,
        aligned=config.aligned,
        canonical_size=config.canonical_size,
        canonical_level=config.canonical_level,
    )


def judge(
    head: BoxHead, pyramid: Sequence[Tensor], boxes: Tensor, valid: Tensor, strides: Sequence[int], config: RoIConfig
) -> RegionOutput:
    """What the head says of every image's boxes."""
    output = head(pool(pyramid, boxes, valid, strides, config.align))
    iou = None if output.iou is None else output.iou.unflatten(0, valid.shape)
    return RegionOutput(output.logits.unflatten(0, valid.shape), output.deltas.unflatten(0, valid.shape), iou)


@torch.no_grad()
def sample_regions(
    head: BoxHead,
    pyramid: Sequence[Tensor],
    strides: Sequence[int],
    proposals: Proposals,
    batch: Batch,
    config: RoIConfig,
) -> RegionSamples:
    """Match proposals to ground truths and choose those that the losses see."""
    boxes, valid = training_candidates(proposals, batch, config)
    matches = match_proposals(boxes, valid, batch, config)
    background, hardness = head.logits.out_features - 1, None
    if "hardest" in (config.sampling.positives, config.sampling.negatives):
        # Online hard example mining looks at the loss of every proposal before it chooses.
        logits = judge(head, pyramid, boxes, matches.gt >= -1, strides, config).logits
        labels = labels_of(matches.gt, batch, background)
        hardness = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    samples = sample(matches, batch.boxes.shape[1], config.sampling, config.match.negative, hardness)
    gt = take(matches.gt, samples.index)
    added = samples.index >= proposals.boxes.shape[1]
    return RegionSamples(
        take(boxes, samples.index), gt, labels_of(gt, batch, background), samples.valid, samples.positive, added
    )


def region_losses(
    head: BoxHead,
    pyramid: Sequence[Tensor],
    strides: Sequence[int],
    samples: RegionSamples,
    batch: Batch,
    config: RoIConfig,
) -> tuple[dict[str, Float[Tensor, ""]], Float[Tensor, "B S C4 4"]]:
    """``class``, ``box``, and ``iou`` if the stage predicts it; and the deltas behind them."""
    output = judge(head, pyramid, samples.boxes, samples.valid, strides, config)
    count = shared_count(samples.valid)
    slots = num_positive_slots(config.sampling)
    boxes, gt, labels, positive = (t[:, :slots] for t in (samples.boxes, samples.gt, samples.labels, samples.positive))
    deltas, gt_boxes = of_class(output.deltas[:, :slots], labels), take(batch.boxes, gt)
    losses = {
        "class": config.class_weight * class_loss(output.logits, samples.labels, samples.valid, count, config.focal),
        "box": localization_loss(deltas, boxes, gt_boxes, positive, count, config.box_loss, config.box_std),
    }
    if output.iou is not None and config.iou is not None:
        refined = clip(decode(boxes, deltas.detach(), config.box_std), batch.sizes)
        expected = of_class(output.iou[:, :slots, :, None], labels).squeeze(2)
        losses["iou"] = iou_prediction_loss(expected, refined, gt_boxes, positive, config.iou)
    return losses, output.deltas


def match_proposals(
    boxes: Float[Tensor, "B N 4"], valid: Bool[Tensor, "B N"], batch: Batch, config: RoIConfig
) -> Matches:
    """Ground truth of each proposal; padding is ignored."""
    matches = match_objects(boxes, batch, config.match)
    return matches._replace(gt=matches.gt.masked_fill(~valid, IGNORED))


def training_candidates(
    proposals: Proposals, batch: Batch, config: RoIConfig
) -> tuple[Float[Tensor, "B N 4"], Bool[Tensor, "B N"]]:
    """What samples are chosen from, and which of it is real: proposals, and ground truths if they are added."""
    if not config.add_ground_truth:
        return proposals.boxes, proposals.valid
    objects = (batch.labels >= 0) & ~batch.crowd
    return torch.cat([proposals.boxes, batch.boxes], 1), torch.cat([proposals.valid, objects], 1)


def labels_of(gt: Int[Tensor, "B N"], batch: Batch, background: int) -> Int[Tensor, "B N"]:
    """The class of the ground truth that each candidate stands for, ``background`` where it stands for none."""
    return torch.where(gt >= 0, take(batch.labels, gt), background)


def of_class(values: Float[Tensor, "B S C4 X"], labels: Int[Tensor, "B S"]) -> Float[Tensor, "B S X"]:
    """What belongs to each sample's class, such as its deltas; class-agnostic heads have one set for all."""
    row = labels.clamp(0, values.shape[2] - 1)[..., None, None].expand(-1, -1, 1, values.shape[3])
    return values.gather(2, row).squeeze(2)


def detect(
    head: BoxHead,
    pyramid: Sequence[Tensor],
    strides: Sequence[int],
    proposals: Proposals,
    sizes: Int[Tensor, "B 2"],
    config: RoIConfig,
    detections: DetectionConfig,
) -> Detections:
    """Score and refine every proposal for every class, suppress within classes, keep the best."""
    output = judge(head, pyramid, proposals.boxes, proposals.valid, strides, config)
    return keep_best(output.logits.softmax(-1), output, proposals, sizes, config.box_std, detections)


def keep_best(
    scores: Float[Tensor, "B P C1"],
    output: RegionOutput,
    proposals: Proposals,
    sizes: Int[Tensor, "B 2"],
    box_std: Sequence[float],
    config: DetectionConfig,
) -> Detections:
    """Detections from class scores (background last), and from deltas and expected IoUs of proposals."""
    scores, quality = scores[..., :-1], None
    if config.quality != "none":
        assert output.iou is not None, "check_config wants roi.iou"
        quality = ((1 + output.iou) / 2).clamp(0, 1).expand_as(scores)
        scores = scores * quality if config.quality == "multiply" else scores
    boxes = proposals.boxes[:, :, None].expand(-1, -1, scores.shape[2], -1)
    boxes = clip(decode(boxes, output.deltas.expand_as(boxes), box_std), sizes)
    valid = (scores > config.score) & proposals.valid[..., None] & is_larger(boxes, config.min_size)
    labels = torch.arange(scores.shape[2], device=scores.device).expand_as(scores).flatten(1)
    guide = quality.flatten(1) if quality is not None and config.quality == "guide" else None
    boxes = boxes.flatten(1, 2)
    rows, scores, kept = survivors(boxes, scores.flatten(1), labels, valid.flatten(1), config, guide)
    return Detections(take(boxes, rows) * kept[..., None], scores * kept, take(labels, rows) * kept, kept)
