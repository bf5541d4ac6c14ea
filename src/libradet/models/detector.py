"""Detector: backbone, feature pyramid and heads, from a batch of images to losses or detections."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

import libradet.utils.quick_torchvision  # noqa: F401 - before all that imports torchvision
from libradet.balance import BalancedFeaturePyramid
from libradet.data.batch import Batch
from libradet.data.transforms.resize import Scales, Size
from libradet.geometry.tiles import TilesLike
from libradet.models.backbone import Backbone
from libradet.models.box_head import BoxHead
from libradet.models.class_balance import ClassWeights, class_weights
from libradet.models.config import DetectorConfig
from libradet.models.config_validation import validate_config
from libradet.models.empty_slots import count_used_slots
from libradet.models.load_pretrained import BackboneWeights
from libradet.models.mask_head import MaskHead
from libradet.models.ops.trained_winograd import replace_3x3_convs
from libradet.models.retinanet_head import RetinaNetHead
from libradet.models.roi_heads import build_roi_heads, precomputed_proposals
from libradet.models.rpn import Proposals, RPNHead, proposals_to_detections
from libradet.models.simple_pyramid import build_pyramid
from libradet.models.uncertainty_weighting import build_uncertainty_weighting
from libradet.structures import Detections
from libradet.utils.arguments import check_arguments
from libradet.utils.devices import CPU_CAPABILITY
from libradet.utils.ranges import PositiveInt, UnitInterval

if TYPE_CHECKING:
    import supervision


class Detector(nn.Module):
    """Detector of backbone, FPN, optional balanced feature pyramid, and the heads in its configuration.

    Called with a batch, it returns a dictionary of losses in training mode and :class:`Detections` in evaluation mode;
    boxes are in pixels of the batch's (resized) images.

    Args:
        config: architecture, losses and postprocessing.
        pretrained: initialize the backbone with ImageNet weights, or with those of a file.

    Raises:
        UserError: heads that cannot be combined, or values out of range.
    """

    # Set by an engine: computes what compute_dense does, from normalized images.
    dense_engine: Callable[[Tensor], list[Tensor]] | None = None
    engine_report: Any = None

    @check_arguments
    def __init__(self, config: DetectorConfig, pretrained: bool | BackboneWeights = False) -> None:
        super().__init__()
        validate_config(config)
        self.config = config
        # Layers that initial weights do not cover.
        self.reinitialized_layers: list[str] = []
        # Set by optimize, which fuses norms into convolutions: the layers differ from those of a file.
        self.is_optimized = False
        self.backbone = Backbone(config.backbone, pretrained)
        self.pyramid = build_pyramid(self.backbone, config)
        self.strides = self.pyramid.strides
        balanced, channels, classes = config.pyramid.balanced, config.pyramid.channels, config.num_classes
        num_gates = config.pyramid.num_levels if balanced and balanced.gated else 0
        self.balance = (
            BalancedFeaturePyramid(channels, balanced.level, balanced.refine, num_gates) if balanced else None
        )
        self.rpn = RPNHead(channels, self.strides, config.rpn) if config.rpn else None
        self.roi = build_roi_heads(channels, self.strides, config)
        self.mask = MaskHead(channels, classes, self.strides, config.mask) if config.mask else None
        self.retinanet = (
            RetinaNetHead(channels, classes, self.strides, config.retinanet, config.detections)
            if config.retinanet
            else None
        )
        self.loss_weights = build_uncertainty_weighting(config)
        replace_3x3_convs(self)
        self.register_buffer("mean", torch.tensor(config.image.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.image.std).view(3, 1, 1), persistent=False)

    def set_training_progress(self, fraction: float) -> None:
        """Set the progress of a training, 0..1, that the schedules of its samplers need; without any, do nothing."""
        for module in self.modules():
            if isinstance(module, (RPNHead, BoxHead)) and module.progress is not None:
                module.progress.fill_(fraction)

    def set_class_frequencies(self, frequencies: Sequence[int]) -> None:
        """Set the number of training objects of each class, from which the box heads' class weights follow."""
        assert self.roi is not None, "only box heads have class weights"
        assert self.config.roi is not None
        assert self.config.roi.class_balance is not None
        balance = replace(self.config.roi.class_balance, frequencies=tuple(frequencies))
        self.config.roi.class_balance = balance
        for head in self.roi.box_heads:
            assert isinstance(head.class_balance, ClassWeights)
            head.class_balance.set_weights(class_weights(balance, self.config.num_classes))

    @property
    def class_names(self) -> list[str]:
        """Names of labels 0..C-1, ``class_0``, ... if they are unknown; "object" for a proposal model."""
        if self.config.is_proposal_model:
            return ["object"]
        return list(self.config.class_names) or [f"class_{label}" for label in range(self.config.num_classes)]

    @property
    def category_ids(self) -> list[int | str]:
        """Category ids of labels 0..C-1 in the training dataset; 1..C if they are unknown."""
        if self.config.is_proposal_model:
            return [1]
        return list(self.config.category_ids) or list(range(1, self.config.num_classes + 1))

    @property
    def size_divisible(self) -> int:
        """Sides of padded images are multiples of this: the backbone's stride, or a balanced pyramid's coarsest one."""
        coarsest = self.strides[-1] if self.config.pyramid.balanced else 32
        return self.config.image.size_divisible or max(coarsest, 32)

    @property
    def bit_depth(self) -> int:
        """Bit depth of the values in 16-bit files, see :class:`libradet.models.config.ImageConfig`."""
        return self.config.image.bit_depth

    @property
    def name(self) -> str:
        """Name in the model zoo."""
        return self.config.model

    @property
    def image_size(self) -> Size:
        """(short, long) side to which images are resized."""
        return self.config.image.size

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the backbone's weights."""
        return next(self.backbone.parameters()).dtype

    @property
    def is_proposal_model(self) -> bool:
        """Whether the detections are proposals."""
        return self.config.is_proposal_model

    @property
    def has_masks(self) -> bool:
        """Whether each detection has a mask."""
        return self.config.mask is not None

    @property
    def num_proposals(self) -> int:
        """Maximum number of precomputed proposals per image; 0 if the detector does not need any."""
        return self.config.roi.test_proposals if self.config.requires_proposals and self.config.roi else 0

    def normalize(self, batch: Batch) -> Float[Tensor, "B 3 H W"]:
        """Return the normalized images, zero in the padding."""
        images = batch.images.flip(1) if self.config.image.channels == "bgr" else batch.images
        images = (images.float() - self.mean) / self.std
        y = torch.arange(images.shape[2], device=images.device) < batch.sizes[:, :1]
        x = torch.arange(images.shape[3], device=images.device) < batch.sizes[:, 1:]
        images = images * (y[:, None, :, None] & x[:, None, None, :])
        # Convolutions inherit the memory format of their input. On CPUs without AVX-512, the backward pass of
        # channels-last convolutions is slower by half; with AVX-512, it is slightly faster.
        is_slow_cpu = images.device.type == "cpu" and CPU_CAPABILITY != "AVX512"
        use_contiguous = self.training and is_slow_cpu and not torch.is_autocast_enabled("cpu")
        layout = torch.contiguous_format if use_contiguous else torch.channels_last
        return images.to(self.dtype, memory_format=layout)

    def extract_features(self, batch: Batch) -> list[Float[Tensor, "B C _ _"]]:
        """Return the pyramid levels, finest first, after the balanced feature pyramid."""
        return self._pyramid_levels(self.normalize(batch))

    def compute_dense(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Return the part of inference whose sizes depend on the images' size alone, from normalized images.

        Returns:
            the pyramid levels, as :meth:`extract_features`; then, of a detector with anchors, the logits of all
            anchors [B, A] or [B, A, C] and their deltas [B, A, 4].
        """
        features = self._pyramid_levels(images)
        head = self.anchor_head
        return features if head is None else [*features, *head.predict(features)]

    @property
    def anchor_head(self) -> RPNHead | RetinaNetHead | None:
        """The head with predictions for every anchor; None in a detector that needs precomputed proposals."""
        return self.rpn if self.retinanet is None else self.retinanet

    def _pyramid_levels(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C _ _"]]:
        features = self.pyramid(self.backbone(images))
        return features if self.balance is None else self.balance(features)

    def forward(self, batch: Batch) -> dict[str, Float[Tensor, ""]] | Detections:
        """Return losses by name (training mode) or detections (evaluation mode)."""
        if not self.training:
            return self._detect(*self._predict_anchors(batch), batch)
        features = self.extract_features(batch)
        losses = self._losses(features, batch)
        return losses if self.loss_weights is None else self.loss_weights(losses)

    def _losses(self, features: list[Tensor], batch: Batch) -> dict[str, Float[Tensor, ""]]:
        if self.retinanet is not None:
            return self.retinanet.losses(self.retinanet(features), batch)
        losses: dict[str, Tensor] = {}
        if self.rpn is not None:
            rpn_output = self.rpn(features)
            losses |= self.rpn.losses(rpn_output, batch)
            if self.roi is None:
                return losses
            proposals = self.rpn.propose(rpn_output, batch.sizes, training=True)
        else:
            proposals = precomputed_proposals(batch)
        assert self.roi is not None, "validate_config requires a head"
        roi_losses, positives = self.roi.losses(features, proposals, batch)
        losses |= roi_losses
        if self.mask is not None:
            losses["mask"] = self.mask.loss(features, positives, batch)
        return losses

    def _predict_anchors(self, batch: Batch) -> tuple[list[Tensor], Any]:
        """Return the pyramid levels, and the output of the head with anchors, None without one."""
        head = self.anchor_head
        if self.dense_engine is None:
            features = self.extract_features(batch)
            return features, None if head is None else head(features)
        tensors = self.dense_engine(self.normalize(batch))
        features = tensors[: len(self.strides)]
        if head is None:
            return features, None
        logits, deltas = tensors[len(self.strides) :]
        return features, head.with_anchors(logits, deltas, features)

    def _detect(self, features: list[Tensor], output: Any, batch: Batch) -> Detections:
        if self.retinanet is not None:
            return self.retinanet.detect(output, batch.sizes)
        if self.rpn is not None:
            proposals = self.rpn.propose(output, batch.sizes, training=False)
        else:
            proposals = precomputed_proposals(batch)
        if self.roi is None:
            return proposals_to_detections(proposals, self.config.detections)
        used = count_used_slots(proposals.valid)
        proposals = Proposals(*(tensor[:, :used] for tensor in proposals))
        detections = self.roi.detect(features, proposals, batch.sizes)
        return detections if self.mask is None else self.mask.add_masks(features, detections)

    @check_arguments
    def predict(
        self,
        images,
        score_thresh: UnitInterval = 0.5,
        size: Size | None = None,
        batch_size: PositiveInt = 1,
        proposals=None,
        *,
        tta_flip: bool = False,
        tta_scales: Scales = (),
        tiles: TilesLike | None = None,
        tile_merge: Literal["nms", "wbf"] = "nms",
    ) -> "supervision.Detections | list[supervision.Detections] | Iterator[supervision.Detections]":
        """Detect objects in one or more images, in pixels of the original; see :mod:`libradet.inference.predict`.

        Args:
            images: path, PIL image or uint8 RGB array [H, W, 3]; a list of them; a folder or glob pattern; a video or
                another iterable of images, for which the result is an iterator.
            score_thresh: minimum score.
            size: (short, long) side to resize to; None: that of training; "original": no resizing.
            batch_size: number of images per forward pass.
            proposals: boxes [P, 4], or a list of them for each image, for a detector without rpn.
            tta_flip, tta_scales: test-time augmentation with the mirrored image and at each of these sizes; see
                :func:`libradet.inference.tta.with_tta`.
            tiles, tile_merge: size and overlap of tiles, such as (640, 0.2), for small objects in large images; and
                how their detections are merged; see :func:`libradet.inference.tiles.make_tiling`.
        """
        from libradet.inference.predict import predict
        from libradet.inference.tiles import make_tiling
        from libradet.inference.tta import with_tta

        tiling = make_tiling(self, tiles, tile_merge)
        model = with_tta(self, tta_flip, tta_scales, size)
        return predict(model, images, score_thresh, size, batch_size, proposals, tiling)
