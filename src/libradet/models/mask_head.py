"""A mask for each box (Mask R-CNN; He et al., ICCV 2017)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from libradet.data.batch import Batch
from libradet.errors import UserError
from libradet.geometry.masks import crop_masks
from libradet.inference.detections import Detections
from libradet.models.config import MaskConfig
from libradet.models.layers import conv
from libradet.models.loss_terms import shared_count
from libradet.models.roi_head import RegionSamples, pool


class MaskHead(nn.Module):
    """Convolutions on a region's features, twice the resolution, and one mask per class."""

    def __init__(self, channels: int, num_classes: int, config: MaskConfig) -> None:
        super().__init__()
        widths = [channels] + [config.channels] * config.convs
        self.convs = nn.ModuleList(conv(a, b, 3, config.norm) for a, b in pairwise(widths))
        self.deconv = nn.ConvTranspose2d(widths[-1], config.channels, 2, stride=2)
        self.logits = nn.Conv2d(config.channels, num_classes, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "R C size size"]) -> Float[Tensor, "R K M M"]:
        """Mask logits of each region for every class."""
        for layer in self.convs:
            x = F.relu(layer(x))
        return self.logits(F.relu(self.deconv(x))).float()


def mask_loss(
    head: MaskHead,
    pyramid: Sequence[Tensor],
    strides: Sequence[int],
    samples: RegionSamples,
    slots: int,
    batch: Batch,
    config: MaskConfig,
) -> Float[Tensor, ""]:
    """Binary cross entropy of the positives' masks, each of its own class, mean over cells and positives.

    Args:
        slots: the first so many samples may be positive.
    """
    if batch.masks is None:
        raise UserError("a model with masks is trained on masks, and the batch has none")
    boxes, gt, labels, positive = (t[:, :slots] for t in (samples.boxes, samples.gt, samples.labels, samples.positive))
    logits = _of_class(head(pool(pyramid, boxes, positive, strides, config.align)), labels)
    cells, width = logits.shape[-1], batch.images.shape[-1]
    targets = crop_masks(batch.masks, boxes, gt, positive, cells, width) >= 0.5
    loss = F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none").mean((2, 3))
    return config.weight * loss.where(positive, 0).sum() / shared_count(positive)


def add_masks(
    head: MaskHead, pyramid: Sequence[Tensor], strides: Sequence[int], detections: Detections, config: MaskConfig
) -> Detections:
    """The detections with a mask each."""
    logits = head(pool(pyramid, detections.boxes, detections.valid, strides, config.align))
    masks = _of_class(logits, detections.labels).sigmoid()
    return detections._replace(masks=masks * detections.valid[..., None, None])


def _of_class(logits: Float[Tensor, "R K M M"], labels: Int[Tensor, "B S"]) -> Float[Tensor, "B S M M"]:
    # Background, in slots that hold no positive, is not among the classes.
    own = labels.clamp(max=logits.shape[1] - 1).flatten()
    rows = torch.arange(own.shape[0], device=own.device)
    return logits[rows, own].unflatten(0, labels.shape)
