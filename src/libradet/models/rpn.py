"""Region proposal network (Ren et al., 2015) on a pyramid."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from libradet.data.batch import Batch
from libradet.geometry.boxes import clip, decode, is_larger
from libradet.geometry.suppression import suppress
from libradet.inference.detections import Detections
from libradet.models.anchor_grid import AnchorGrid, match_anchors
from libradet.models.config import DetectionConfig, ProposalConfig, RPNConfig
from libradet.models.loss_terms import localization_loss, objectness_loss, shared_count
from libradet.models.ranking import best, rank
from libradet.models.samples import num_positive_slots, sample, take


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
    anchors: the same for every image.
    shapes: height and width of each level.
    """

    logits: Float[Tensor, "B A"]
    deltas: Float[Tensor, "B A 4"]
    anchors: Float[Tensor, "A 4"]
    shapes: list[tuple[int, int]]


class RPN(nn.Module):
    """A small head that slides over all levels: for each anchor an objectness logit and four deltas."""

    def __init__(self, channels: int, strides: Sequence[int], config: RPNConfig) -> None:
        super().__init__()
        self.grid = AnchorGrid(strides, config.anchors)
        self.per_cell = self.grid.per_cell
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(config.convs))
        self.logits = nn.Conv2d(channels, self.per_cell, 1)
        self.deltas = nn.Conv2d(channels, self.per_cell * 4, 1)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.normal_(conv.weight, std=0.01)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)

    def forward(self, pyramid: Sequence[Float[Tensor, "B C _ _"]]) -> RPNOutput:
        """Predictions for every anchor of every level."""
        logits, deltas = [], []
        weight = torch.cat([self.logits.weight, self.deltas.weight])
        bias = torch.cat([b for b in (self.logits.bias, self.deltas.bias) if b is not None])
        for x in pyramid:
            for conv in self.convs:
                x = F.relu(conv(x))
            # Both read the same: one convolution makes one gradient of it, not two to be added up.
            both = F.conv2d(x, weight, bias).permute(0, 2, 3, 1)
            logits.append(both[..., : self.per_cell].flatten(1))
            deltas.append(both[..., self.per_cell :].reshape(x.shape[0], -1, 4))
        return RPNOutput(torch.cat(logits, 1).float(), torch.cat(deltas, 1).float(), *self.grid(pyramid))


@torch.no_grad()
def propose(output: RPNOutput, sizes: Int[Tensor, "B 2"], config: ProposalConfig, per_cell: int) -> Proposals:
    """The best boxes: ``per_level`` best anchors of each level, decoded, clipped, suppressed within their level."""
    index, levels = [], []
    start = 0
    for level, (height, width) in enumerate(output.shapes):
        number = height * width * per_cell
        rows = best(output.logits[:, start : start + number], config.per_level, config.rank)
        index.append(rows + start)
        levels.append(torch.full_like(rows, level))
        start += number
    index, levels = torch.cat(index, 1), torch.cat(levels, 1)
    boxes = clip(decode(output.anchors[index], take(output.deltas, index)), sizes)
    logits, large = take(output.logits, index), is_larger(boxes, config.min_size)
    rows, valid = suppress(boxes, rank(logits, config.rank), levels, large, threshold=config.nms, size=config.total)
    return Proposals(take(boxes, rows) * valid[..., None], take(logits, rows).sigmoid() * valid, valid)


def as_detections(proposals: Proposals, config: DetectionConfig) -> Detections:
    """The best proposals as what leaves a detector: objects without a class, so all labels are 0."""
    boxes, scores, valid = (t[:, : config.total] for t in proposals)
    valid = valid & (scores > config.score)
    labels = torch.zeros_like(scores, dtype=torch.int64)
    return Detections(boxes * valid[..., None], scores * valid, labels, valid)


def rpn_losses(
    output: RPNOutput, batch: Batch, config: RPNConfig, strides: Sequence[int], per_cell: int
) -> dict[str, Float[Tensor, ""]]:
    """``rpn_class`` and ``rpn_box``: match anchors to ground truths, sample, compare."""
    with torch.no_grad():
        own = (output.anchors, output.shapes, strides, per_cell, batch)
        anchors, matches = match_anchors(*own, config.match, config.allowed_border)
        hardness = None
        if "hardest" in (config.sampling.positives, config.sampling.negatives):
            hardness = F.binary_cross_entropy_with_logits(output.logits, (matches.gt >= 0).float(), reduction="none")
        samples = sample(matches, batch.boxes.shape[1], config.sampling, config.match.negative, hardness)
        slots = num_positive_slots(config.sampling)
        index, positive = samples.index[:, :slots], samples.positive[:, :slots]
        gt_boxes = take(batch.boxes, take(matches.gt, index))
    count = shared_count(samples.valid)
    return {
        "rpn_class": objectness_loss(take(output.logits, samples.index), samples.positive, samples.valid, count),
        "rpn_box": localization_loss(
            take(output.deltas, index), take(anchors, index), gt_boxes, positive, count, config.box_loss
        ),
    }
