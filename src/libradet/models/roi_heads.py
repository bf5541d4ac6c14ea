"""RoI heads: one box head on proposals (Fast R-CNN), or several in sequence (Cascade R-CNN)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from libradet.data.batch import Batch
from libradet.errors import UserError
from libradet.geometry.boxes import box_area, clip_boxes, decode, is_larger
from libradet.geometry.indexing import gather_rows
from libradet.models.box_head import BoxHead, BoxHeadOutput, SampledProposals, first_slots, select_class
from libradet.models.config import CascadeConfig, DetectionConfig, DetectorConfig, RoIConfig
from libradet.models.nms import multiclass_nms
from libradet.models.rpn import Proposals
from libradet.structures import Detections


class RoIHeads(BoxHead):
    """A box head with its detections (Fast R-CNN on a pyramid).

    Args:
        channels: of the pyramid levels.
        strides: of the pyramid levels.
        detections: NMS and score threshold.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        strides: Sequence[int],
        config: RoIConfig,
        detections: DetectionConfig,
    ) -> None:
        super().__init__(channels, num_classes, strides, config)
        self.detections = detections

    @property
    def box_heads(self) -> list[BoxHead]:
        """The box head itself."""
        return [self]

    def losses(
        self, features: Sequence[Tensor], proposals: Proposals, batch: Batch
    ) -> tuple[dict[str, Float[Tensor, ""]], SampledProposals]:
        """Return ``class``, ``box`` (and ``iou``), and the samples in the slots that may hold positives."""
        samples = self.sample_proposals(features, proposals, batch)
        losses, _ = self.sample_losses(features, samples, batch)
        return losses, first_slots(samples, self.max_positives)

    def detect(self, features: Sequence[Tensor], proposals: Proposals, sizes: Int[Tensor, "B 2"]) -> Detections:
        """Score and refine every proposal for every class, apply NMS within classes, and return the best boxes."""
        output = self.run_box_head(features, proposals.boxes, proposals.valid)
        scores = self.scores(output.logits)
        return postprocess_detections(scores, output, proposals, sizes, self.config.box_std, self.detections)


class CascadeRoIHeads(nn.ModuleList):
    """Box heads in sequence, each on the boxes that the previous one has refined (Cascade R-CNN).

    Args:
        channels: of the pyramid levels.
        strides: of the pyramid levels.
        config: shared by all stages, except for what ``cascade`` sets.
        detections: NMS and score threshold.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        strides: Sequence[int],
        config: RoIConfig,
        cascade: CascadeConfig,
        detections: DetectionConfig,
    ) -> None:
        stages = stage_configs(config, cascade)
        super().__init__(BoxHead(channels, num_classes, strides, stage) for stage in stages)
        self.cascade, self.detections = cascade, detections

    @property
    def box_heads(self) -> list[BoxHead]:
        """The stages, in order."""
        return [head for head in self if isinstance(head, BoxHead)]

    def losses(
        self, features: Sequence[Tensor], proposals: Proposals, batch: Batch
    ) -> tuple[dict[str, Float[Tensor, ""]], SampledProposals]:
        """Return ``class_1``, ``box_1``, ``class_2``, ... (and ``iou_K``), and the last stage's possible positives.

        The proposals of a stage are the refined samples of the previous one, without the added ground truths, which
        are added again at each stage.
        """
        losses: dict[str, Tensor] = {}
        positives = None
        for number, head in enumerate(self.box_heads, start=1):
            samples = head.sample_proposals(features, proposals, batch)
            stage_losses, deltas = head.sample_losses(features, samples, batch)
            losses |= {f"{name}_{number}": loss for name, loss in stage_losses.items()}
            positives = first_slots(samples, head.max_positives)
            kept = samples.valid & ~samples.added
            proposals = refine(samples.boxes, deltas, samples.labels, kept, batch.sizes, head.config)
            # A box without area is not used for training, though it may become a detection.
            proposals = proposals._replace(valid=kept & (box_area(proposals.boxes) > 0))
        assert positives is not None, "a cascade has at least one stage"
        return losses, positives

    def detect(self, features: Sequence[Tensor], proposals: Proposals, sizes: Int[Tensor, "B 2"]) -> Detections:
        """Return the boxes of the last stage, scored by the mean of all stages' classifiers."""
        heads, average_logits = self.box_heads, self.cascade.average == "logits"
        stage_scores, output = [], None
        for head in heads:
            output = head.run_box_head(features, proposals.boxes, proposals.valid)
            stage_scores.append(output.logits if average_logits else head.scores(output.logits))
            if len(stage_scores) < len(heads):
                labels = output.logits[..., :-1].argmax(-1)
                proposals = refine(proposals.boxes, output.deltas, labels, proposals.valid, sizes, head.config)
        assert output is not None, "a cascade has at least one stage"
        scores = torch.stack(stage_scores).mean(0)
        scores = heads[-1].scores(scores) if average_logits else scores
        return postprocess_detections(scores, output, proposals, sizes, heads[-1].config.box_std, self.detections)


def build_roi_heads(channels: int, strides: Sequence[int], config: DetectorConfig) -> RoIHeads | CascadeRoIHeads | None:
    """Build the RoI heads of a detector; None if its configuration has none."""
    if config.roi is None:
        return None
    if config.cascade is None:
        return RoIHeads(channels, config.num_classes, strides, config.roi, config.detections)
    return CascadeRoIHeads(channels, config.num_classes, strides, config.roi, config.cascade, config.detections)


def stage_configs(roi: RoIConfig, cascade: CascadeConfig) -> list[RoIConfig]:
    """Return the box head configuration of each stage, with its own IoU threshold, deltas and loss weights.

    Only the last stage, whose boxes are detections, predicts their IoU.
    """
    num_stages = len(cascade.iou_thresholds)
    configs = []
    for stage, (iou, std, weight) in enumerate(
        zip(cascade.iou_thresholds, cascade.box_stds, cascade.weights, strict=True), start=1
    ):
        configs.append(
            replace(
                roi,
                match=replace(roi.match, fg_iou_thresh=iou, bg_iou_thresh=iou, min_pos_iou=iou),
                box_std=std,
                cls_loss_weight=roi.cls_loss_weight * weight,
                box_loss=replace(roi.box_loss, weight=roi.box_loss.weight * weight),
                iou=replace(roi.iou, weight=roi.iou.weight * weight)
                if roi.iou is not None and stage == num_stages
                else None,
            )
        )
    return configs


def precomputed_proposals(batch: Batch) -> Proposals:
    """Return the proposals that come with the batch. Raises UserError if it has none."""
    if batch.proposals is None:
        raise UserError(
            "a detector without rpn needs precomputed proposals, and the batch has none; "
            "libradet predict writes them with a proposal model, such as rpn"
        )
    valid = box_area(batch.proposals) > 0
    return Proposals(batch.proposals, valid.float(), valid)


@torch.no_grad()
def refine(
    boxes: Float[Tensor, "B P 4"],
    deltas: Float[Tensor, "B P C4 4"],
    labels: Int[Tensor, "B P"],
    valid: Bool[Tensor, "B P"],
    sizes: Int[Tensor, "B 2"],
    config: RoIConfig,
) -> Proposals:
    """Return the proposals of the next stage: ``boxes`` refined by the deltas of their class, and clipped."""
    refined = clip_boxes(decode(boxes, select_class(deltas, labels), config.box_std), sizes)
    return Proposals(refined * valid[..., None], valid.float(), valid)


def postprocess_detections(
    scores: Float[Tensor, "B P C1"],
    output: BoxHeadOutput,
    proposals: Proposals,
    sizes: Int[Tensor, "B 2"],
    box_std: Sequence[float],
    config: DetectionConfig,
) -> Detections:
    """Return detections from the class scores (background last), deltas and expected IoUs of proposals."""
    scores, quality = scores[..., :-1], None
    if config.score_fusion != "none":
        assert output.iou is not None, "check_config requires roi.iou"
        quality = ((1 + output.iou) / 2).clamp(0, 1).expand_as(scores)
        scores = scores * quality if config.score_fusion == "multiply" else scores
    boxes = proposals.boxes[:, :, None].expand(-1, -1, scores.shape[2], -1)
    boxes = clip_boxes(decode(boxes, output.deltas.expand_as(boxes), box_std), sizes)
    valid = (scores > config.score_thresh) & proposals.valid[..., None] & is_larger(boxes, config.min_size)
    labels = torch.arange(scores.shape[2], device=scores.device).expand_as(scores).flatten(1)
    guide = quality.flatten(1) if quality is not None and config.score_fusion == "iou_guided" else None
    boxes = boxes.flatten(1, 2)
    rows, scores, kept = multiclass_nms(boxes, scores.flatten(1), labels, valid.flatten(1), config, guide)
    boxes, labels = gather_rows(boxes, rows), gather_rows(labels, rows)
    return Detections(boxes * kept[..., None], scores * kept, labels * kept, kept)
