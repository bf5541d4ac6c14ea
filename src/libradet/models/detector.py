"""The road from pictures to losses or detections."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from libradet.balance import BalancedFeaturePyramid
from libradet.data.batch import Batch
from libradet.errors import UserError
from libradet.models.backbones import Backbone
from libradet.models.config import DetectorConfig
from libradet.models.detections import Detections
from libradet.models.pyramids import FeaturePyramid
from libradet.models.roi_head import BoxHead, detect, roi_losses
from libradet.models.rpn import RPN, propose, rpn_losses

if TYPE_CHECKING:
    import supervision

    from libradet.data.transforms import Size


class Detector(nn.Module):
    """Backbone → pyramid → balanced pyramid → RPN → second stage.

    Called with a batch, gives a dictionary of losses in training mode and :class:`Detections` in
    evaluation mode; boxes are in pixels of the batch's (resized) pictures.

    Args:
        config: what to build.
        pretrained: start the backbone from ImageNet weights.
    """

    def __init__(self, config: DetectorConfig, pretrained: bool = False) -> None:
        super().__init__()
        if config.rpn is None or config.roi is None:
            raise UserError(f"{config.model}: a two-stage detector needs both rpn and roi, and one of them is null")
        self.config = config
        self.backbone = Backbone(config.backbone, pretrained)
        self.pyramid = FeaturePyramid(self.backbone.channels, config.pyramid)
        self.strides = self.pyramid.strides
        balanced, channels = config.pyramid.balanced, config.pyramid.channels
        self.balance = BalancedFeaturePyramid(channels, balanced.level, balanced.refine) if balanced else None
        self.rpn = RPN(channels, self.strides, config.rpn)
        self.roi = BoxHead(channels, config.num_classes, config.roi)
        self.register_buffer("mean", torch.tensor(config.image.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.image.std).view(3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)

    @property
    def class_names(self) -> list[str]:
        """Names of labels 0..C−1."""
        return list(self.config.class_names)

    @property
    def category_ids(self) -> list[int]:
        """The training data set's own ids of labels 0..C−1; 1..C if it is not known."""
        return list(self.config.category_ids) or list(range(1, self.config.num_classes + 1))

    @property
    def divisor(self) -> int:
        """Canvas sides must be multiples of this: the coarsest stride, at least that of the backbone."""
        return self.config.image.divisor or max(self.strides[-1], 32)

    def normalise(self, batch: Batch) -> Float[Tensor, "B 3 H W"]:
        """Pictures as the backbone wants them, zero in the padding."""
        images = batch.images.flip(1) if self.config.image.channels == "bgr" else batch.images
        images = (images.float() - self.mean) / self.std
        y = torch.arange(images.shape[2], device=images.device) < batch.sizes[:, :1]
        x = torch.arange(images.shape[3], device=images.device) < batch.sizes[:, 1:]
        images = images * (y[:, None, :, None] & x[:, None, None, :])
        return images.contiguous(memory_format=torch.channels_last)

    def extract_features(self, batch: Batch) -> list[Float[Tensor, "B C _ _"]]:
        """Pyramid levels, finest first, after balancing."""
        pyramid = self.pyramid(self.backbone(self.normalise(batch)))
        return pyramid if self.balance is None else self.balance(pyramid)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]] | Detections:
        """Losses by name (training mode) or detections (evaluation mode)."""
        pyramid = self.extract_features(batch)
        output = self.rpn(pyramid)
        config = self.config
        assert config.rpn is not None
        assert config.roi is not None
        suppression = config.rpn.train_proposals if self.training else config.rpn.test_proposals
        proposals = propose(output, batch.sizes, suppression, self.rpn.per_cell)
        if not self.training:
            return detect(self.roi, pyramid, self.strides, proposals, batch.sizes, config.roi, config.detections)
        return {
            **rpn_losses(output, batch, config.rpn, self.strides, self.rpn.per_cell),
            **roi_losses(self.roi, pyramid, self.strides, proposals, batch, config.roi),
        }

    def predict(
        self, images, threshold: float = 0.5, size: "Size | None" = None
    ) -> "supervision.Detections | list[supervision.Detections]":
        """Detections of one picture or of a list of them, in pixels of the original.

        Args:
            images: path, PIL image or uint8 RGB array [H, W, 3], or a list of them.
            threshold: least score.
            size: (short, long) side to resize to, None for that of training, "original" for no resizing.
        """
        from libradet.models.prediction import predict

        return predict(self, images, threshold, size)
