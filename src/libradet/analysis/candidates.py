"""Candidates of each stage of a detector, matched as in training, with their losses and regression errors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from libradet.data.batch import Batch
from libradet.geometry.boxes import encode
from libradet.geometry.indexing import gather_rows
from libradet.geometry.matching import Matches
from libradet.geometry.roi_align import assign_levels
from libradet.models.box_head import (
    BoxHead,
    labels_of,
    match_proposals,
    pad_scores,
    select_class,
    training_candidates,
)
from libradet.models.class_balance import unbalanced_losses
from libradet.models.config import BoxLossConfig, DetectorConfig, RoIConfig, SamplingConfig
from libradet.models.detector import Detector
from libradet.models.losses import class_loss, focal_losses
from libradet.models.retinanet_head import RetinaNetOutput
from libradet.models.roi_heads import precomputed_proposals, stage_configs
from libradet.models.rpn import RPNHead, RPNOutput

_CHUNK = 256
"""Proposals that go through the box head together; affects memory, not results."""


@dataclass
class Activations:
    """Intermediate outputs of a detector for the last batch.

    Attributes:
        pyramid: levels before balancing.
        balanced: levels that the heads receive; the same as ``pyramid`` in a detector without balancing.
        rpn, retinanet: predictions for every anchor.
    """

    pyramid: list[Tensor] = field(default_factory=list)
    balanced: list[Tensor] = field(default_factory=list)
    rpn: RPNOutput | None = None
    retinanet: RetinaNetOutput | None = None


@contextmanager
def without_mask_head(model: Detector) -> Iterator[None]:
    """Detect boxes only within the context."""
    mask, model.mask = model.mask, None
    try:
        yield
    finally:
        model.mask = mask


@contextmanager
def at_end_of_schedules(model: Detector) -> Iterator[None]:
    """Sample as at the end of a training within the context, whatever the progress of the model's schedules."""
    heads = [module for module in model.modules() if isinstance(module, (RPNHead, BoxHead))]
    progress = [head.progress for head in heads if head.progress is not None]
    before = [value.clone() for value in progress]
    model.set_training_progress(1.0)
    try:
        yield
    finally:
        for value, restored in zip(progress, before, strict=True):
            value.copy_(restored)


@contextmanager
def capture_activations(model: Detector) -> Iterator[Activations]:
    """Capture the outputs of pyramid and heads within the context, with forward hooks."""
    activations = Activations()

    def pyramid(module: Any, inputs: Any, output: list[Tensor]) -> None:
        # Gradients at the levels are needed even if every layer before them is frozen.
        for level in output:
            if not level.requires_grad and not level.is_inference():
                level.requires_grad_()
        activations.pyramid = activations.balanced = list(output)

    def balanced(module: Any, inputs: Any, output: list[Tensor]) -> None:
        activations.balanced = list(output)

    def rpn(module: Any, inputs: Any, output: RPNOutput) -> None:
        activations.rpn = output

    def retinanet(module: Any, inputs: Any, output: RetinaNetOutput) -> None:
        activations.retinanet = output

    hooks = ((model.pyramid, pyramid), (model.balance, balanced), (model.rpn, rpn), (model.retinanet, retinanet))
    handles = [module.register_forward_hook(hook) for module, hook in hooks if module is not None]
    try:
        yield activations
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Stage:
    """A stage of a detector that is trained on matched candidates.

    Attributes:
        key: name in reports and options: ``rpn``, ``roi`` or ``retinanet``.
        candidates: kind of candidates.
        sampling: sampler; for ``retinanet``, which trains on all anchors, that of an RPN.
        max_iou: candidates below this IoU are negatives.
        box_loss: box regression loss, with the weight that all stages of a cascade share.
        cls_loss_weight: weight of the classification loss, likewise; None if it is fixed.
        generated_boxes: number of boxes that training adds for each ground truth.
        min_positive_iou: candidates from this IoU on are positives.
    """

    key: Literal["rpn", "roi", "retinanet"]
    candidates: Literal["anchors", "proposals"]
    sampling: SamplingConfig
    max_iou: float
    box_loss: BoxLossConfig
    cls_loss_weight: float | None = None
    generated_boxes: int = 0
    min_positive_iou: float = 0.5

    @property
    def uses_sampling(self) -> bool:
        """Whether the stage samples its candidates, instead of training on all."""
        return self.key != "retinanet"

    @property
    def beta(self) -> float:
        """Regression error at which the linear part of the loss begins; the zoo's β for losses without one."""
        if self.box_loss.type in ("smooth_l1", "balanced_l1") and self.box_loss.beta:
            return self.box_loss.beta
        return 1.0 if self.key == "roi" else 1 / 9


class Candidates(NamedTuple):
    """Candidates of a stage.

    Attributes:
        boxes: xyxy in pixels of the resized image.
        matches: matched ground truth and IoU of each candidate.
        loss: classification loss of each candidate.
        errors: predicted minus target deltas; meaningful for positives only.
        levels: index of the pyramid level of an anchor, or that RoIAlign reads for a proposal.
        labels: class of each candidate, the number of classes for background; None in an RPN, as are the next two.
        class_loss: loss that the model is trained with, which differs from ``loss`` if its classes are balanced.
        gradient: sum of the absolute values of its gradient at the logits.
        scores: objectness of each candidate, 0..1; None in a RetinaNet head.
    """

    boxes: Float[Tensor, "B N 4"]
    matches: Matches
    loss: Float[Tensor, "B N"]
    errors: Float[Tensor, "B N 4"]
    levels: Int[Tensor, "B N"]
    labels: Int[Tensor, "B N"] | None = None
    class_loss: Float[Tensor, "B N"] | None = None
    gradient: Float[Tensor, "B N"] | None = None
    scores: Float[Tensor, "B N"] | None = None


def stages_of(config: DetectorConfig) -> list[Stage]:
    """Return the stages of a detector in the order of its forward pass; of a cascade only the first RoI stage."""
    stages: list[Stage] = []
    if config.retinanet is not None:
        head, sampling = config.retinanet, SamplingConfig(batch_size_per_image=256, positive_fraction=0.5)
        stages.append(
            Stage("retinanet", "anchors", sampling, head.match.bg_iou_thresh, head.box_loss, head.cls_loss_weight)
        )
    if config.rpn is not None:
        rpn = config.rpn
        stages.append(Stage("rpn", "anchors", rpn.sampling, rpn.match.bg_iou_thresh, rpn.box_loss))
    if config.roi is not None:
        roi = first_roi_config(config)
        stages.append(
            Stage(
                "roi",
                "proposals",
                roi.sampling,
                roi.match.bg_iou_thresh,
                config.roi.box_loss,
                config.roi.cls_loss_weight,
                roi.generated_boxes,
                roi.match.fg_iou_thresh,
            )
        )
    return stages


def first_roi_config(config: DetectorConfig) -> RoIConfig:
    """Return the configuration of the RoI heads, of a cascade that of its first stage."""
    assert config.roi is not None
    return config.roi if config.cascade is None else stage_configs(config.roi, config.cascade)[0]


def candidates_of(stage: Stage, model: Detector, activations: Activations, batch: Batch) -> Candidates:
    """Return the candidates of a stage in the batch that ``activations`` belong to, matched as in training."""
    if stage.key == "roi":
        return _proposals(model, activations, batch)
    if stage.key == "rpn":
        return _rpn_anchors(model, activations, batch)
    return _retinanet_anchors(model, activations, batch)


def _rpn_anchors(model: Detector, activations: Activations, batch: Batch) -> Candidates:
    output, rpn = activations.rpn, model.rpn
    assert output is not None
    assert rpn is not None
    anchors, matches = rpn.match(output, batch)
    loss = F.binary_cross_entropy_with_logits(output.logits, (matches.gt >= 0).float(), reduction="none")
    errors = output.deltas - encode(anchors, gather_rows(batch.boxes, matches.gt))
    levels = _anchor_levels(rpn.anchor_generator.level_sizes(output.shapes), anchors)
    return Candidates(anchors, matches, loss, errors, levels, scores=output.logits.sigmoid())


def _retinanet_anchors(model: Detector, activations: Activations, batch: Batch) -> Candidates:
    output, head = activations.retinanet, model.retinanet
    assert output is not None
    assert head is not None
    anchors, matches = head.match(output, batch)
    labels = labels_of(matches.gt, batch, head.num_classes)
    loss, gradient = _loss_and_gradient(
        lambda logits: focal_losses(logits, labels.clone(), head.config.focal).sum(-1), output.logits
    )
    errors = output.deltas - encode(anchors, gather_rows(batch.boxes, matches.gt))
    levels = _anchor_levels(head.anchor_generator.level_sizes(output.shapes), anchors)
    return Candidates(anchors, matches, loss, errors, levels, labels, loss, gradient)


def _proposals(model: Detector, activations: Activations, batch: Batch) -> Candidates:
    assert model.roi is not None
    head = model.roi.box_heads[0]
    config = head.config
    if activations.rpn is not None and model.rpn is not None:
        proposals = model.rpn.propose(activations.rpn, batch.sizes, training=True)
    else:
        proposals = precomputed_proposals(batch)
    boxes, valid = training_candidates(proposals, batch, config)
    matches = match_proposals(boxes, valid, batch, config)
    logits, deltas = _run_box_head(head, activations.balanced, boxes, valid)
    labels = labels_of(matches.gt, batch, head.num_classes)
    loss = unbalanced_losses(logits.flatten(0, 1), labels.flatten(), config.class_balance).view(labels.shape)
    errors = select_class(deltas, labels) - encode(boxes, gather_rows(batch.boxes, matches.gt), config.box_std)
    align = config.align
    levels = assign_levels(boxes, model.strides[: align.num_levels], align.canonical_size, align.canonical_level)
    own_loss, gradient = _loss_and_gradient(lambda at: _own_class_loss(head, at, labels.clone()), logits)
    scores = pad_scores(proposals.scores, boxes.shape[1])
    return Candidates(boxes, matches, loss, errors, levels, labels, own_loss, gradient, scores)


def _own_class_loss(head: BoxHead, logits: Float[Tensor, "B N C1"], labels: Int[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """Return the loss of each candidate that the head is trained with."""
    weight = torch.ones(labels.shape, device=labels.device, requires_grad=True)
    valid, count = torch.ones_like(labels, dtype=torch.bool), torch.ones((), device=labels.device)
    loss = class_loss(logits, labels, valid, count, head.config.focal, weight, head.class_balance)
    # The loss is a sum of weighted losses: its gradient at the weights is the loss of each candidate.
    return torch.autograd.grad(loss, weight, create_graph=True)[0]


def _loss_and_gradient(
    loss_of: Callable[[Tensor], Tensor], logits: Float[Tensor, "B N C"]
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Return the loss of each candidate, and the sum of the absolute values of its gradient at the logits."""
    with torch.inference_mode(False), torch.enable_grad():
        at = logits.detach().clone().requires_grad_()
        loss = loss_of(at)
        (gradient,) = torch.autograd.grad(loss.sum(), at)
    return loss.detach(), gradient.abs().sum(-1)


def _run_box_head(
    head: BoxHead, features: list[Tensor], boxes: Tensor, valid: Tensor
) -> tuple[Float[Tensor, "B N C1"], Float[Tensor, "B N C4 4"]]:
    parts = [
        head.run_box_head(features, box_chunk, valid_chunk)
        for box_chunk, valid_chunk in zip(boxes.split(_CHUNK, 1), valid.split(_CHUNK, 1), strict=True)
    ]
    return torch.cat([part.logits for part in parts], 1), torch.cat([part.deltas for part in parts], 1)


def _anchor_levels(level_sizes: list[int], anchors: Tensor) -> Int[Tensor, "B N"]:
    levels = torch.arange(len(level_sizes)).repeat_interleave(torch.tensor(level_sizes))
    return levels.to(anchors.device).expand(len(anchors), -1)
