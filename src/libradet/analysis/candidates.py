"""What each stage of a detector could learn from: its candidates, what they stand for, how wrong it is about them."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from libradet.analysis.watching import Seen
from libradet.data.batch import Batch
from libradet.geometry.boxes import encode
from libradet.geometry.matching import Matches
from libradet.geometry.roi_align import assign_levels
from libradet.models.anchor_grid import match_anchors
from libradet.models.cascade import stage_configs
from libradet.models.config import BoxLossConfig, DetectorConfig, RoIConfig, SamplingConfig
from libradet.models.detector import Detector
from libradet.models.roi_head import (
    BoxHead,
    given_proposals,
    judge,
    labels_of,
    match_proposals,
    of_class,
    training_candidates,
)
from libradet.models.rpn import propose
from libradet.models.samples import take

# Regions that go through the box head together: memory, not numbers, depends on it.
_CHUNK = 256


@dataclass(frozen=True)
class Stage:
    """A part of a detector that learns from matched candidates.

    Attributes:
        key: its name in reports and options: ``rpn``, ``roi`` or ``dense``.
        candidates: what it chooses from.
        sampling: how it chooses; for ``dense``, which learns from all, how an RPN would.
        max_iou: below which a candidate is a negative.
        box_loss: its localization loss.
        class_weight: of its classification loss; None where it has none.
    """

    key: Literal["rpn", "roi", "dense"]
    candidates: Literal["anchors", "proposals"]
    sampling: SamplingConfig
    max_iou: float
    box_loss: BoxLossConfig
    class_weight: float | None = None

    @property
    def samples(self) -> bool:
        """Whether it chooses at all."""
        return self.key != "dense"

    @property
    def unit(self) -> float:
        """The regression error at which the linear part of its loss begins; β of losses that have none is the zoo's."""
        if self.box_loss.kind in ("smooth_l1", "balanced_l1"):
            return self.box_loss.beta
        return 1.0 if self.key == "roi" else 1 / 9


class Candidates(NamedTuple):
    """Attributes:
    boxes: xyxy in pixels of the resized image.
    matches: the ground truth that each stands for, and its IoU.
    loss: classification loss of each.
    errors: predicted minus target deltas; means something for positives alone.
    levels: index of the pyramid level that each belongs to or is read from.
    """

    boxes: Float[Tensor, "B N 4"]
    matches: Matches
    loss: Float[Tensor, "B N"]
    errors: Float[Tensor, "B N 4"]
    levels: Int[Tensor, "B N"]


def stages(config: DetectorConfig) -> list[Stage]:
    """Those that a detector has, in the order of its road. Of a cascade, the first second stage stands for all."""
    found: list[Stage] = []
    if config.dense is not None:
        dense, sampling = config.dense, SamplingConfig(size=256, positive_fraction=0.5)
        found.append(Stage("dense", "anchors", sampling, dense.match.negative, dense.box_loss, dense.class_weight))
    if config.rpn is not None:
        rpn = config.rpn
        found.append(Stage("rpn", "anchors", rpn.sampling, rpn.match.negative, rpn.box_loss))
    if config.roi is not None:
        roi = first_second_stage(config)
        found.append(Stage("roi", "proposals", roi.sampling, roi.match.negative, roi.box_loss, roi.class_weight))
    return found


def first_second_stage(config: DetectorConfig) -> RoIConfig:
    """The configuration of the second stage, or of a cascade's first."""
    assert config.roi is not None
    return config.roi if config.cascade is None else stage_configs(config.roi, config.cascade)[0]


def candidates_of(stage: Stage, model: Detector, seen: Seen, batch: Batch) -> Candidates:
    """What ``stage`` could learn from in the batch that ``seen`` holds, matched as in training."""
    if stage.key == "roi":
        return _proposals(model, seen, batch)
    return _anchors(model, seen, batch) if stage.key == "rpn" else _dense_anchors(model, seen, batch)


def _anchors(model: Detector, seen: Seen, batch: Batch) -> Candidates:
    output, rpn, config = seen.rpn, model.rpn, model.config.rpn
    assert output is not None
    assert rpn is not None
    assert config is not None
    own = (output.anchors, output.shapes, model.strides, rpn.per_cell, batch)
    anchors, matches = match_anchors(*own, config.match, config.allowed_border)
    loss = F.binary_cross_entropy_with_logits(output.logits, (matches.gt >= 0).float(), reduction="none")
    errors = output.deltas - encode(anchors, take(batch.boxes, matches.gt))
    return Candidates(anchors, matches, loss, errors, _anchor_levels(output.shapes, rpn.per_cell, anchors))


def _dense_anchors(model: Detector, seen: Seen, batch: Batch) -> Candidates:
    output, head, config = seen.dense, model.dense, model.config.dense
    assert output is not None
    assert head is not None
    assert config is not None
    own = (output.anchors, output.shapes, model.strides, head.per_cell, batch)
    anchors, matches = match_anchors(*own, config.match)
    labels = labels_of(matches.gt, batch, head.num_classes)
    targets = (labels[..., None] == torch.arange(head.num_classes, device=labels.device)).float()
    loss = sigmoid_focal_loss(output.logits, targets, config.focal.alpha, config.focal.gamma).sum(-1)
    errors = output.deltas - encode(anchors, take(batch.boxes, matches.gt))
    return Candidates(anchors, matches, loss, errors, _anchor_levels(output.shapes, head.per_cell, anchors))


def _proposals(model: Detector, seen: Seen, batch: Batch) -> Candidates:
    config, head = first_second_stage(model.config), _first_head(model)
    if seen.rpn is not None and model.rpn is not None and model.config.rpn is not None:
        proposals = propose(seen.rpn, batch.sizes, model.config.rpn.train_proposals, model.rpn.per_cell)
    else:
        proposals = given_proposals(batch)
    boxes, valid = training_candidates(proposals, batch, config)
    matches = match_proposals(boxes, valid, batch, config)
    logits, deltas = _judge(head, seen.balanced, model.strides, boxes, valid, config)
    labels = labels_of(matches.gt, batch, head.logits.out_features - 1)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    errors = of_class(deltas, labels) - encode(boxes, take(batch.boxes, matches.gt), config.box_std)
    align = config.align
    levels = assign_levels(boxes, model.strides[: align.levels], align.canonical_size, align.canonical_level)
    return Candidates(boxes, matches, loss, errors, levels)


def _first_head(model: Detector) -> BoxHead:
    head = model.roi if isinstance(model.roi, BoxHead) else next(iter(model.roi.children())) if model.roi else None
    assert isinstance(head, BoxHead)
    return head


def _judge(
    head: BoxHead, pyramid: list[Tensor], strides: list[int], boxes: Tensor, valid: Tensor, config: RoIConfig
) -> tuple[Float[Tensor, "B N C1"], Float[Tensor, "B N C4 4"]]:
    parts = [
        judge(head, pyramid, some, real, strides, config)
        for some, real in zip(boxes.split(_CHUNK, 1), valid.split(_CHUNK, 1), strict=True)
    ]
    return torch.cat([part.logits for part in parts], 1), torch.cat([part.deltas for part in parts], 1)


def _anchor_levels(shapes: list[tuple[int, int]], per_cell: int, anchors: Tensor) -> Int[Tensor, "B N"]:
    counts = torch.tensor([height * width * per_cell for height, width in shapes])
    levels = torch.arange(len(shapes)).repeat_interleave(counts)
    return levels.to(anchors.device).expand(len(anchors), -1)
