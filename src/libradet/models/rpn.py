"""Region proposal network (Ren et al., 2015) on a feature pyramid."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from libradet.data.batch import Batch
from libradet.geometry.boxes import clip_boxes, decode, is_larger
from libradet.geometry.indexing import gather_rows, sort_key, topk_per_level
from libradet.geometry.matching import Matches
from libradet.geometry.nms import batched_nms
from libradet.models.anchor_generator import AnchorGenerator
from libradet.models.config import DetectionConfig, ProposalConfig, RPNConfig
from libradet.models.losses import localization_loss, num_samples_across_ranks, objectness_loss
from libradet.models.ops.sampled_head import is_supported, neighborhoods, predict_at, with_gradient_of
from libradet.models.sampling import build_progress, max_positives, sample, uses_ohem
from libradet.structures import Detections


class Proposals(NamedTuple):
    """Attributes:
    boxes: xyxy in pixels of the resized image, by falling score.
    scores: objectness, 0..1.
    valid: which rows are real.
    """

    boxes: Float[Tensor, "B P 4"]
    scores: Float[Tensor, "B P"]
    valid: Bool[Tensor, "B P"]


class RPNOutput(NamedTuple):
    """Attributes:
    logits: objectness of every anchor, levels concatenated.
    deltas: from anchor to box.
    anchors: shared by all images.
    shapes: height and width of each level.
    features: of each level, if predictions have no gradient and losses compute it at the sampled anchors.
    """

    logits: Float[Tensor, "B A"]
    deltas: Float[Tensor, "B A 4"]
    anchors: Float[Tensor, "A 4"]
    shapes: list[tuple[int, int]]
    features: Sequence[Float[Tensor, "B C _ _"]] | None = None


class RPNHead(nn.Module):
    """Convolutional head shared by all levels: an objectness logit and four deltas for each anchor.

    Attributes:
        config: anchors, matching, sampling, losses and proposals.
        anchor_generator: of all levels.
    """

    def __init__(self, channels: int, strides: Sequence[int], config: RPNConfig) -> None:
        super().__init__()
        self.config = config
        self.anchor_generator = AnchorGenerator(strides, config.anchors)
        num_anchors = self.anchor_generator.num_anchors_per_location
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(config.num_convs))
        self.logits = nn.Conv2d(channels, num_anchors, 1)
        self.deltas = nn.Conv2d(channels, num_anchors * 4, 1)
        self.register_buffer("progress", build_progress(config.sampling), persistent=False)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.normal_(conv.weight, std=0.01)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)

    def forward(self, features: Sequence[Float[Tensor, "B C _ _"]]) -> RPNOutput:
        """Return the predictions for every anchor of every level."""
        if not is_supported(self.convs, self.config.sampling.batch_size_per_image, features):
            return self.with_anchors(*self.predict(features), features)
        with torch.no_grad():
            return self.with_anchors(*self.predict(features), features)._replace(features=features)

    def predict(
        self, features: Sequence[Float[Tensor, "B C _ _"]]
    ) -> tuple[Float[Tensor, "B A"], Float[Tensor, "B A 4"]]:
        """Return logits and deltas of every anchor of every level."""
        logits, deltas = [], []
        num_anchors = self.anchor_generator.num_anchors_per_location
        weight, bias = self._output_layer()
        # Without gradients, as in forward, a second hidden map would be the largest tensor of a training step.
        in_place = self.training and not torch.is_grad_enabled()
        for x in features:
            for conv in self.convs:
                x = F.relu(conv(x), inplace=in_place)
            both = F.conv2d(x, weight, bias).permute(0, 2, 3, 1)
            logits.append(both[..., :num_anchors].flatten(1))
            deltas.append(both[..., num_anchors:].reshape(x.shape[0], -1, 4))
        return torch.cat(logits, 1).float(), torch.cat(deltas, 1).float()

    def with_anchors(
        self, logits: Float[Tensor, "B A"], deltas: Float[Tensor, "B A 4"], features: Sequence[Tensor]
    ) -> RPNOutput:
        """Return predictions together with the anchors of the levels."""
        return RPNOutput(logits, deltas, *self.anchor_generator(features))

    def _output_layer(self) -> tuple[Float[Tensor, "A5 C 1 1"], Float[Tensor, " A5"]]:
        """Return logits and deltas, which have the same input, as one layer: it produces one gradient of the input."""
        biases = [b for b in (self.logits.bias, self.deltas.bias) if b is not None]
        return torch.cat([self.logits.weight, self.deltas.weight]), torch.cat(biases)

    def _at_samples(
        self, output: RPNOutput, index: Int[Tensor, "B S"], slots: int
    ) -> tuple[Float[Tensor, "B S"], Float[Tensor, "B slots 4"]]:
        """Return the logits of sampled anchors, and the deltas of those in the first ``slots``, with gradients."""
        logits, deltas = gather_rows(output.logits, index), gather_rows(output.deltas, index[:, :slots])
        if output.features is None:
            return logits, deltas
        conv = self.convs[0]
        assert isinstance(conv, nn.Conv2d), "is_supported requires it"
        patches = neighborhoods(output.features, index, self.anchor_generator.num_anchors_per_location)
        at_samples = predict_at(patches, index, conv, *self._output_layer())
        return with_gradient_of(at_samples[..., 0], logits), with_gradient_of(at_samples[:, :slots, 1:], deltas)

    def match(self, output: RPNOutput, batch: Batch) -> tuple[Float[Tensor, "B A 4"], Matches]:
        """Match the anchors of each image to its ground truths; see :meth:`AnchorGenerator.match`."""
        config = self.config
        return self.anchor_generator.match(output.anchors, output.shapes, batch, config.match, config.allowed_border)

    def losses(self, output: RPNOutput, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Match and sample anchors, and compute ``rpn_class`` and ``rpn_box``."""
        config = self.config
        with torch.no_grad():
            anchors, matches = self.match(output, batch)
            anchor_loss = None
            if uses_ohem(config.sampling):
                positive = (matches.gt >= 0).float()
                anchor_loss = F.binary_cross_entropy_with_logits(output.logits, positive, reduction="none")
            samples = sample(
                matches,
                batch.boxes.shape[1],
                config.sampling,
                config.match.bg_iou_thresh,
                anchor_loss,
                score=output.logits.sigmoid() if config.sampling.background_sampling == "score_balanced" else None,
                progress=self.progress,
            )
            slots = max_positives(config.sampling)
            index, positive = samples.index[:, :slots], samples.positive[:, :slots]
            gt_boxes = gather_rows(batch.boxes, gather_rows(matches.gt, index))
        count = num_samples_across_ranks(samples.valid)
        logits, deltas = self._at_samples(output, samples.index, slots)
        anchors = gather_rows(anchors, index)
        return {
            "rpn_class": objectness_loss(logits, samples.positive, samples.valid, count, samples.weight),
            "rpn_box": localization_loss(deltas, anchors, gt_boxes, positive, count, config.box_loss),
        }

    def propose(self, output: RPNOutput, sizes: Int[Tensor, "B 2"], training: bool) -> Proposals:
        """Return the proposals of images of ``sizes`` (height, width), as many as in training or in evaluation."""
        config = self.config.train_proposals if training else self.config.test_proposals
        return filter_proposals(output, sizes, config, self.anchor_generator.level_sizes(output.shapes))


@torch.no_grad()
def filter_proposals(
    output: RPNOutput, sizes: Int[Tensor, "B 2"], config: ProposalConfig, level_sizes: Sequence[int]
) -> Proposals:
    """Return the best boxes: the ``pre_nms_top_n`` best anchors of each level, decoded, clipped, after NMS per level.

    Args:
        level_sizes: number of anchors of each level.
    """
    rows_by_level = topk_per_level(output.logits, level_sizes, config.pre_nms_top_n, config.topk_by)
    levels = torch.cat([torch.full_like(rows, level) for level, rows in enumerate(rows_by_level)], 1)
    index = torch.cat(rows_by_level, 1)
    boxes = clip_boxes(decode(output.anchors[index], gather_rows(output.deltas, index)), sizes)
    logits, usable = gather_rows(output.logits, index), is_larger(boxes, config.min_size)
    if config.score_thresh > 0:
        usable = usable & (logits.sigmoid() >= config.score_thresh)
    keys = sort_key(logits, config.topk_by)
    rows, valid = batched_nms(boxes, keys, levels, usable, threshold=config.nms_thresh, size=config.post_nms_top_n)
    boxes, scores = gather_rows(boxes, rows), gather_rows(logits, rows).sigmoid()
    return Proposals(boxes * valid[..., None], scores * valid, valid)


def proposals_to_detections(proposals: Proposals, config: DetectionConfig) -> Detections:
    """Return the best proposals as detections of a proposal model: objects without a class, so all labels are 0."""
    boxes, scores, valid = (t[:, : config.detections_per_img] for t in proposals)
    valid = valid & (scores > config.score_thresh)
    labels = torch.zeros_like(scores, dtype=torch.int64)
    return Detections(boxes * valid[..., None], scores * valid, labels, valid)
