"""Mask head (Mask R-CNN; He et al., ICCV 2017)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from libradet.data.batch import Batch
from libradet.errors import UserError
from libradet.geometry.masks import crop_masks
from libradet.models.box_head import SampledProposals, first_slots, roi_pool
from libradet.models.config import MaskConfig
from libradet.models.empty_slots import count_used_slots
from libradet.models.layers import conv_norm
from libradet.models.losses import num_samples_across_ranks
from libradet.structures import Detections


class MaskHead(nn.Module):
    """Convolutions on the features of a region, upsampling by 2, and one mask per class.

    Attributes:
        config: pooling, layers and loss weight.
        strides: of the pyramid levels.
    """

    def __init__(self, channels: int, num_classes: int, strides: Sequence[int], config: MaskConfig) -> None:
        super().__init__()
        self.strides, self.config = list(strides), config
        widths = [channels] + [config.channels] * config.num_convs
        self.convs = nn.ModuleList(conv_norm(a, b, 3, config.norm) for a, b in pairwise(widths))
        self.deconv = nn.ConvTranspose2d(widths[-1], config.channels, 2, stride=2)
        self.logits = nn.Conv2d(config.channels, num_classes, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "R C size size"]) -> Float[Tensor, "R K M M"]:
        """Return the mask logits of each region for every class, from its pooled features."""
        for layer in self.convs:
            x = F.relu(layer(x))
        return self.logits(F.relu(self.deconv(x))).float()

    def hidden_layers(self) -> list[nn.Module]:
        """Return the convolutions before the upsampling."""
        return [layer for layer in self.convs.modules() if isinstance(layer, nn.Conv2d)]

    def loss(self, features: Sequence[Tensor], positives: SampledProposals, batch: Batch) -> Float[Tensor, ""]:
        """Return the binary cross entropy of the positives' masks of their own class, mean over pixels and positives.

        Args:
            positives: samples in the slots that may hold positives.
            batch: with masks.

        Raises:
            UserError: the batch has no masks.
        """
        if batch.masks is None:
            raise UserError("a model with a mask head is trained on masks, and the batch has none")
        positives = first_slots(positives, count_used_slots(positives.positive))
        boxes, positive = positives.boxes, positives.positive
        logits = self(roi_pool(features, boxes, positive, self.strides, self.config.align))
        logits = _select_class(logits, positives.labels)
        mask_size, image_width = logits.shape[-1], batch.images.shape[-1]
        targets = crop_masks(batch.masks, boxes, positives.gt, positive, mask_size, image_width) >= 0.5
        loss = F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none").mean((2, 3))
        return self.config.weight * loss.where(positive, 0).sum() / num_samples_across_ranks(positive)

    def add_masks(self, features: Sequence[Tensor], detections: Detections) -> Detections:
        """Return the detections with a mask for each."""
        used = count_used_slots(detections.valid)
        boxes, valid, labels = (t[:, :used] for t in (detections.boxes, detections.valid, detections.labels))
        logits = self(roi_pool(features, boxes, valid, self.strides, self.config.align))
        masks = _select_class(logits, labels).sigmoid() * valid[..., None, None]
        num_empty = detections.valid.shape[1] - used
        return detections._replace(masks=F.pad(masks, (0, 0, 0, 0, 0, num_empty)))


def _select_class(logits: Float[Tensor, "R K M M"], labels: Int[Tensor, "B S"]) -> Float[Tensor, "B S M M"]:
    # The label of background, in slots without a positive, is none of the mask classes.
    own = labels.clamp(max=logits.shape[1] - 1).flatten()
    rows = torch.arange(own.shape[0], device=own.device)
    return logits[rows, own].unflatten(0, labels.shape)
