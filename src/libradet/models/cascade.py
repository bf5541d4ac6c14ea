"""Several second stages, each on the boxes that the one before has refined (Cascade R-CNN)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from libradet.data.batch import Batch
from libradet.geometry.boxes import area, clip, decode
from libradet.inference.detections import Detections
from libradet.models.config import CascadeConfig, DetectionConfig, RoIConfig
from libradet.models.roi_head import (
    BoxHead,
    RegionSamples,
    judge,
    keep_best,
    of_class,
    region_losses,
    sample_regions,
)
from libradet.models.rpn import Proposals


def stage_configs(roi: RoIConfig, cascade: CascadeConfig) -> list[RoIConfig]:
    """The second stage's configuration with each stage's own thresholds, deltas and weights.

    Only the last, whose boxes are detections, predicts how well they lie.
    """
    each = zip(cascade.ious, cascade.box_stds, cascade.weights, strict=True)
    return [
        replace(
            roi,
            match=replace(roi.match, positive=iou, negative=iou, min_positive=iou),
            box_std=std,
            class_weight=roi.class_weight * weight,
            box_loss=replace(roi.box_loss, weight=roi.box_loss.weight * weight),
            iou=replace(roi.iou, weight=roi.iou.weight * weight) if roi.iou and stage == len(cascade.ious) else None,
        )
        for stage, (iou, std, weight) in enumerate(each, start=1)
    ]


def cascade_losses(
    heads: Sequence[BoxHead],
    pyramid: Sequence[Tensor],
    strides: Sequence[int],
    proposals: Proposals,
    batch: Batch,
    configs: Sequence[RoIConfig],
) -> tuple[dict[str, Float[Tensor, ""]], RegionSamples]:
    """``class_1``, ``box_1``, ``class_2``, ... (and the last stage's ``iou_K``), and the last stage's samples.

    A stage's proposals are the samples of the one before, refined, without the ground truths among them:
    those are added anew.
    """
    losses: dict[str, Tensor] = {}
    samples = None
    for number, (head, config) in enumerate(zip(heads, configs, strict=True), start=1):
        samples = sample_regions(head, pyramid, strides, proposals, batch, config)
        own, deltas = region_losses(head, pyramid, strides, samples, batch, config)
        losses |= {f"{name}_{number}": loss for name, loss in own.items()}
        kept = samples.valid & ~samples.added
        refined = refine(samples.boxes, deltas, samples.labels, kept, batch.sizes, config)
        # A box without area is no candidate to learn from, though it may be what a stage finds.
        proposals = refined._replace(valid=kept & (area(refined.boxes) > 0))
    assert samples is not None, "a cascade has stages"
    return losses, samples


@torch.no_grad()
def refine(
    boxes: Float[Tensor, "B P 4"],
    deltas: Float[Tensor, "B P C4 4"],
    labels: Int[Tensor, "B P"],
    valid: Tensor,
    sizes: Int[Tensor, "B 2"],
    config: RoIConfig,
) -> Proposals:
    """The next stage's proposals."""
    refined = clip(decode(boxes, of_class(deltas, labels), config.box_std), sizes)
    return Proposals(refined * valid[..., None], valid.float(), valid)


def cascade_detect(
    heads: Sequence[BoxHead],
    pyramid: Sequence[Tensor],
    strides: Sequence[int],
    proposals: Proposals,
    sizes: Int[Tensor, "B 2"],
    configs: Sequence[RoIConfig],
    cascade: CascadeConfig,
    detections: DetectionConfig,
) -> Detections:
    """The boxes of the last stage, scored by the mean of all stages' classifiers."""
    votes, output = [], None
    for head, config in zip(heads, configs, strict=True):
        output = judge(head, pyramid, proposals.boxes, proposals.valid, strides, config)
        votes.append(output.logits if cascade.average == "logits" else output.logits.softmax(-1))
        if len(votes) < len(configs):
            labels = output.logits[..., :-1].argmax(-1)
            proposals = refine(proposals.boxes, output.deltas, labels, proposals.valid, sizes, config)
    assert output is not None, "a cascade has stages"
    scores = torch.stack(votes).mean(0)
    scores = scores.softmax(-1) if cascade.average == "logits" else scores
    return keep_best(scores, output, proposals, sizes, configs[-1].box_std, detections)
