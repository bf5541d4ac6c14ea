"""The road from images to losses or detections."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from libradet.balance import BalancedFeaturePyramid
from libradet.data.batch import Batch
from libradet.data.loading.transforms import Size
from libradet.inference.detections import Detections
from libradet.models.backbones import Backbone
from libradet.models.config import DetectorConfig
from libradet.models.config_checks import check_config
from libradet.models.dense_head import DenseHead, dense_detect, dense_losses
from libradet.models.learned_weights import learned_weights
from libradet.models.mask_head import MaskHead, add_masks, mask_loss
from libradet.models.pretrained import BackboneWeights
from libradet.models.pyramids import FeaturePyramid
from libradet.models.roi_head import given_proposals
from libradet.models.rpn import RPN, as_detections, propose, rpn_losses
from libradet.models.samples import num_positive_slots
from libradet.models.second_stage import box_heads, second_stage_detect, second_stage_losses

if TYPE_CHECKING:
    import supervision

WIDE_VECTORS = torch.backends.cpu.get_cpu_capability() == "AVX512"


class Detector(nn.Module):
    """Backbone -> pyramid -> balanced pyramid -> heads: which ones, ``config`` says.

    Called with a batch, gives a dictionary of losses in training mode and :class:`Detections` in
    evaluation mode; boxes are in pixels of the batch's (resized) images.

    Args:
        config: what to build.
        pretrained: start the backbone from ImageNet weights, or from those of a file.

    Raises:
        UserError: heads that do not fit together, or values out of their ranges.
    """

    def __init__(self, config: DetectorConfig, pretrained: bool | BackboneWeights = False) -> None:
        super().__init__()
        check_config(config)
        self.config = config
        # Layers that trained weights, where it was given any, have left at random.
        self.fresh: list[str] = []
        # Made by optimize: norms are folded, so the layers are not those of a file.
        self.for_inference = False
        self.backbone = Backbone(config.backbone, pretrained)
        self.pyramid = FeaturePyramid(self.backbone.channels, config.pyramid)
        self.strides = self.pyramid.strides
        balanced, channels, classes = config.pyramid.balanced, config.pyramid.channels, config.num_classes
        self.balance = BalancedFeaturePyramid(channels, balanced.level, balanced.refine) if balanced else None
        self.rpn = RPN(channels, self.strides, config.rpn) if config.rpn else None
        self.roi = box_heads(channels, config)
        self.mask = MaskHead(channels, classes, config.mask) if config.mask else None
        self.dense = DenseHead(channels, classes, self.strides, config.dense) if config.dense else None
        self.loss_weights = learned_weights(config)
        self.register_buffer("mean", torch.tensor(config.image.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.image.std).view(3, 1, 1), persistent=False)

    @property
    def class_names(self) -> list[str]:
        """Names of labels 0..C-1; proposals are all objects."""
        return ["object"] if self.config.proposes else list(self.config.class_names)

    @property
    def category_ids(self) -> list[int]:
        """The training dataset's own ids of labels 0..C-1; 1..C if they are not known."""
        if self.config.proposes:
            return [1]
        return list(self.config.category_ids) or list(range(1, self.config.num_classes + 1))

    @property
    def divisor(self) -> int:
        """Canvas sides must be multiples of this: the backbone's stride; a balanced pyramid's, too, if it is larger."""
        coarsest = self.strides[-1] if self.config.pyramid.balanced else 32
        return self.config.image.divisor or max(coarsest, 32)

    @property
    def name(self) -> str:
        """The zoo entry."""
        return self.config.model

    @property
    def image_size(self) -> Size:
        """(short, long) side to which images are resized."""
        return self.config.image.size

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """That of the backbone's weights."""
        return next(self.backbone.parameters()).dtype

    @property
    def proposes(self) -> bool:
        """Whether the detections are proposals."""
        return self.config.proposes

    @property
    def gives_masks(self) -> bool:
        """Whether each detection has a mask."""
        return self.config.mask is not None

    @property
    def proposals_wanted(self) -> int:
        """Boxes of an image that are looked at, best first; 0 if the detector looks for objects itself."""
        return self.config.roi.test_proposals if self.config.takes_proposals and self.config.roi else 0

    def normalize(self, batch: Batch) -> Float[Tensor, "B 3 H W"]:
        """Images as the backbone wants them, zero in the padding."""
        images = batch.images.flip(1) if self.config.image.channels == "bgr" else batch.images
        images = (images.float() - self.mean) / self.std
        y = torch.arange(images.shape[2], device=images.device) < batch.sizes[:, :1]
        x = torch.arange(images.shape[3], device=images.device) < batch.sizes[:, 1:]
        images = images * (y[:, None, :, None] & x[:, None, None, :])
        # Convolutions take their layout from their input. On CPUs without wide vectors, gradients of channels-last
        # ones take half as long again; with them, a little less.
        narrow = images.device.type == "cpu" and not WIDE_VECTORS
        plain = self.training and narrow and not torch.is_autocast_enabled("cpu")
        layout = torch.contiguous_format if plain else torch.channels_last
        return images.to(self.dtype, memory_format=layout)

    def extract_features(self, batch: Batch) -> list[Float[Tensor, "B C _ _"]]:
        """Pyramid levels, finest first, after balancing."""
        pyramid = self.pyramid(self.backbone(self.normalize(batch)))
        return pyramid if self.balance is None else self.balance(pyramid)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]] | Detections:
        """Losses by name (training mode) or detections (evaluation mode)."""
        pyramid = self.extract_features(batch)
        if not self.training:
            return self._detections(pyramid, batch)
        losses = self._losses(pyramid, batch)
        return losses if self.loss_weights is None else self.loss_weights(losses)

    def _losses(self, pyramid: list[Tensor], batch: Batch) -> dict[str, Float[Tensor, ""]]:
        config, strides = self.config, self.strides
        if self.dense is not None and config.dense is not None:
            return dense_losses(self.dense, self.dense(pyramid), batch, config.dense)
        losses: dict[str, Tensor] = {}
        proposals = None
        if self.rpn is not None and config.rpn is not None:
            output = self.rpn(pyramid)
            losses |= rpn_losses(output, batch, config.rpn, strides, self.rpn.per_cell)
            if self.roi is not None:
                proposals = propose(output, batch.sizes, config.rpn.train_proposals, self.rpn.per_cell)
        if self.roi is None or config.roi is None:
            return losses
        proposals = given_proposals(batch) if proposals is None else proposals
        own, samples = second_stage_losses(self.roi, pyramid, strides, proposals, batch, config)
        if self.mask is not None and config.mask is not None:
            slots = num_positive_slots(config.roi.sampling)
            own["mask"] = mask_loss(self.mask, pyramid, strides, samples, slots, batch, config.mask)
        return losses | own

    def _detections(self, pyramid: list[Tensor], batch: Batch) -> Detections:
        config, strides = self.config, self.strides
        if self.dense is not None and config.dense is not None:
            return dense_detect(self.dense, self.dense(pyramid), batch.sizes, config.dense, config.detections)
        if self.rpn is not None and config.rpn is not None:
            proposals = propose(self.rpn(pyramid), batch.sizes, config.rpn.test_proposals, self.rpn.per_cell)
        else:
            proposals = given_proposals(batch)
        if self.roi is None:
            return as_detections(proposals, config.detections)
        found = second_stage_detect(self.roi, pyramid, strides, proposals, batch.sizes, config)
        if self.mask is not None and config.mask is not None:
            return add_masks(self.mask, pyramid, strides, found, config.mask)
        return found

    def predict(
        self,
        images,
        threshold: float = 0.5,
        size: Size | None = None,
        batch_size: int = 1,
        proposals=None,
        *,
        flip: bool = False,
        sizes: Sequence[int | Size] = (),
    ) -> "supervision.Detections | list[supervision.Detections] | Iterator[supervision.Detections]":
        """Detections of one image or of many, in pixels of the original; see :mod:`libradet.inference.predictor`.

        Args:
            images: path, PIL image or uint8 RGB array [H, W, 3]; a list of them; a folder or pattern; a video, or
                anything else that gives images one by one, for which the result is an iterator.
            threshold: least score.
            size: (short, long) side to resize to, None for that of training, "original" for no resizing.
            batch_size: images that go through the model together.
            proposals: boxes [P, 4] to look at, or a list of them, for a detector without rpn.
            flip, sizes: look several times, also at the mirrored image and at each of these sizes, see
                :func:`libradet.models.several_views.in_views`.
        """
        from libradet.inference.predictor import predict
        from libradet.models.several_views import in_views

        return predict(in_views(self, flip, sizes, size), images, threshold, size, batch_size, proposals)
