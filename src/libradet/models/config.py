"""Configuration of a detector: one tree of dataclasses.

A name of the model zoo is a function that returns such a tree; YAML files and the command line override its fields.
The heads of a detector are those of ``rpn``, ``roi``, ``cascade``, ``mask`` and ``retinanet`` that are not None:

- ``rpn`` alone: a proposal model, whose detections are proposals;
- ``roi`` alone: RoI heads on precomputed proposals (Fast R-CNN);
- ``rpn`` and ``roi``: Faster R-CNN; with ``cascade`` several box heads in sequence, with ``mask`` a mask head;
- ``retinanet``: a one-stage detector.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from libradet.models.loss_config import BoxLossConfig, ClassBalanceConfig, FocalConfig, MatchConfig, SamplingConfig
from libradet.utils.ranges import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
    UnitInterval,
)

Norm = Literal["none", "batch", "group", "layer"]
"""Normalization after each convolution of a pyramid or head: none, batch norm, group norm of 32 groups, or layer norm
over the channels of each cell."""

BACKBONE_STRIDES = (4, 8, 16, 32)
"""Strides of a backbone's features C2 to C5."""

FEATURE_STRIDES: dict[str, tuple[int, ...]] = {"stages": BACKBONE_STRIDES, "stride_32": BACKBONE_STRIDES[-1:] * 2}
"""Strides of the features that the pyramid reads, by ``BackboneConfig.features``; a plain ViT has one, of stride 16."""

MAX_LAYERS = 100
"""Upper limit of layer counts: a configuration may come from an untrusted file, and building layers is slow."""

MAX_LORA_RANK = 1024
"""Upper limit for the same reason."""

NumLayers = Annotated[int, Range(ge=0, le=MAX_LAYERS)]
AtLeastOneLayer = Annotated[int, Range(ge=1, le=MAX_LAYERS)]
OpenUnitInterval = Annotated[float, Range(gt=0, lt=1)]
BoxStd = Annotated[tuple[float, float, float, float], Range(gt=0)]
"""Standard deviations of the deltas (dx, dy, dw, dh); the inverse of torchvision's ``bbox_reg_weights``."""

LOSS_WEIGHTS = "loss_weights."
"""Prefix of the parameters of uncertainty weighting, which are used in training only."""

CLASS_BALANCE = "class_balance."
"""Part of the names of what losses that balance classes have counted, which is used in training only."""


@dataclass
class ImageConfig:
    """Preprocessing: images are resized to a short side of ``size[0]``, or less so that the long one is ``size[1]``.

    ``size_divisible``: images are padded to sides that are multiples of it; 0 uses the least multiple that the backbone
    (32) and the balanced pyramid (its coarsest stride) need. The padded size changes features at image borders.

    ``batch_invariant_padding``: evaluation, too, pads each image to the smallest size that holds it, as prediction
    does. Its detections then depend on the image alone. Otherwise a few padded sizes are chosen for a dataset, which
    fills batches better. ``bit_depth``: of gray 16-bit files, such as 12: 2**bit_depth - 1 is white.
    """

    size: Annotated[tuple[int, int], Range(ge=1)] = (800, 1333)
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: Annotated[tuple[float, float, float], Range(gt=0)] = (58.395, 57.12, 57.375)
    channels: Literal["rgb", "bgr"] = "rgb"
    size_divisible: NonNegativeInt = 0
    batch_invariant_padding: bool = False
    bit_depth: Annotated[int, Range(ge=8, le=16)] = 16


@dataclass
class LoraConfig:
    """Low-rank adapters of the backbone's attention layers (Hu et al., ICLR 2022); the other weights are kept.

    Each layer adds ``alpha / rank`` times the product of two trained matrices of ``rank`` columns and rows; ``dropout``
    is that of their input. The defaults are those of ``peft``.
    """

    rank: Annotated[int, Range(ge=1, le=MAX_LORA_RANK)] = 8
    alpha: PositiveInt = 8
    dropout: Annotated[float, Range(ge=0, lt=1)] = 0.0


@dataclass
class BackboneConfig:
    """A timm feature extractor.

    ``freeze_at``: 0 freezes nothing, 1 the stem, 2 the stem and the first stage; a stage of a plain ViT is a quarter of
    its blocks. ``frozen``: the whole backbone keeps its weights and is in evaluation mode; training stores none of its
    activations. ``frozen_norm``: batch norms use and keep their stored statistics. ``norm_eps``: epsilon of batch
    norms; None keeps that of the timm model. ``stride_in_1x1``: bottlenecks of a ResNet downsample in their first
    convolution (Caffe), not in the 3x3. ``lora``: adapters of attention layers are trained in place of the weights.
    ``features``: what the pyramid reads: ``stages`` the last feature of each stride, 4 to 32; ``stride_32`` two of
    stride 32, the output of the first block and the last feature, as torchvision's detectors on MobileNetV3, which then
    need ``pyramid.start_stride`` 32.
    """

    name: str = "resnet50"
    freeze_at: NonNegativeInt = 0
    frozen_norm: bool = False
    norm_eps: NonNegativeFloat | None = None
    stride_in_1x1: bool = False
    frozen: bool = False
    lora: LoraConfig | None = None
    features: Literal["stages", "stride_32"] = "stages"


@dataclass
class BalancedPyramidConfig:
    """Balanced feature pyramid (paper 3.2): ``level`` is the index of the pyramid level at which all are averaged.

    ``gated``: each level learns the factor of the average that it adds, 0 at first; the paper adds the average itself.
    """

    level: int = 2
    refine: Literal["none", "conv", "non_local"] = "non_local"
    gated: bool = False


@dataclass
class PyramidConfig:
    """Feature pyramid of ``num_levels`` outputs, the finest of which has stride ``start_stride``.

    ``type``: ``simple`` is ViTDet's simple feature pyramid, for plain ViTs, which have one feature map of stride 16.
    ``extra_levels``: how levels above C5 are computed. ``extra_relu``: a ReLU before the second and further extra
    convolutions. ``norm``: after every convolution except the extra ones.
    """

    type: Literal["fpn", "pafpn", "simple"] = "fpn"
    channels: PositiveInt = 256
    num_levels: AtLeastOneLayer = 5
    start_stride: int = 4
    extra_levels: Literal["max_pool", "conv_on_c5", "conv_on_p5"] = "max_pool"
    extra_relu: bool = False
    norm: Norm = "none"
    balanced: BalancedPyramidConfig | None = None


@dataclass
class AnchorConfig:
    """Anchors of side ``scale * stride`` at every cell; ``offset`` 0 centers them on cell corners, 0.5 on cell centers.

    ``sizes``: sides in pixels, the same on every level, in place of those that follow from ``scales``. ``truncated``:
    sides are truncated to integers. ``rounded``: corners are rounded to integers. ``fitted``: the stride of a level is
    the padded size divided by its number of cells, rounded down, where the level does not divide it evenly.
    torchvision's anchors are truncated, rounded and fitted.
    """

    scales: tuple[PositiveFloat, ...] = (8.0,)
    ratios: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)
    offset: float = 0.0
    truncated: bool = False
    rounded: bool = False
    fitted: bool = False
    sizes: tuple[PositiveFloat, ...] = ()


@dataclass
class ProposalConfig:
    """Non-maximum suppression of proposals: ``pre_nms_top_n`` of each level before, ``post_nms_top_n`` in all after.

    ``topk_by``: the value that they are sorted by; the order of equal ``scores`` matters where many round to 1.
    ``score_thresh``: minimum score (0..1) before suppression.
    """

    pre_nms_top_n: PositiveInt = 2000
    post_nms_top_n: PositiveInt = 2000
    nms_thresh: UnitInterval = 0.7
    min_size: float = 0.0
    topk_by: Literal["logits", "scores"] = "logits"
    score_thresh: UnitInterval = 0.0


@dataclass
class RPNConfig:
    """Region proposal network.

    ``allowed_border``: training ignores anchors that cross the image border by more pixels; None ignores none.
    """

    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    num_convs: NumLayers = 1
    allowed_border: NonNegativeFloat | None = None
    match: MatchConfig = field(
        default_factory=lambda: MatchConfig(
            fg_iou_thresh=0.7, bg_iou_thresh=0.3, allow_low_quality_matches=True, min_pos_iou=0.3
        )
    )
    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(batch_size_per_image=256, positive_fraction=0.5)
    )
    box_loss: BoxLossConfig = field(default_factory=lambda: BoxLossConfig(beta=1 / 9))
    train_proposals: ProposalConfig = field(default_factory=ProposalConfig)
    test_proposals: ProposalConfig = field(
        default_factory=lambda: ProposalConfig(pre_nms_top_n=1000, post_nms_top_n=1000)
    )


@dataclass
class RoIAlignConfig:
    """RoIAlign on the pyramid level that fits a box's size.

    ``sampling_ratio`` 0 adapts the number of sampling points to the size of the box.
    """

    output_size: PositiveInt = 7
    sampling_ratio: NonNegativeInt = 2
    aligned: bool = True
    num_levels: AtLeastOneLayer = 4
    canonical_size: PositiveFloat = 224.0
    canonical_level: int = 4


@dataclass
class DetectionConfig:
    """Postprocessing: the ``detections_per_img`` best detections that score more than ``score_thresh``.

    Their sides exceed ``min_size`` pixels, and non-maximum suppression has been applied within each class.

    ``nms_type``: ``nms`` drops boxes that overlap a better one by an IoU above ``nms_thresh``. Soft-NMS (Bodla et al.,
    ICCV 2017) lowers their scores instead and drops them at ``min_score`` or less: ``soft_linear`` multiplies by
    1 - IoU where the IoU exceeds ``nms_thresh``, ``soft_gaussian`` by exp(-IoU^2 / ``sigma``) at any IoU.

    ``score_fusion``: use of the IoU that ``roi.iou`` predicts. ``none`` ignores it. ``multiply`` multiplies the score
    by it before ``score_thresh`` is applied. ``iou_guided`` suppresses in its order, and a kept box gets the best score
    of those that it suppressed (IoU-guided NMS; Jiang et al., ECCV 2018).
    """

    score_thresh: UnitInterval = 0.05
    nms_thresh: UnitInterval = 0.5
    detections_per_img: PositiveInt = 100
    min_size: float = 0.0
    nms_type: Literal["nms", "soft_linear", "soft_gaussian"] = "nms"
    sigma: PositiveFloat = 0.5
    min_score: UnitInterval = 0.001
    score_fusion: Literal["none", "multiply", "iou_guided"] = "none"


@dataclass
class IoUConfig:
    """IoU prediction of the box head, or of the last one of a cascade (IoU-Net; Jiang et al., ECCV 2018).

    The output is the IoU of each refined box with its object, one per class, or one if the head is ``class_agnostic``.
    Its loss is smooth L1 on the IoU scaled to -1..1; ``beta`` is the error at which its linear part starts. The paper
    trains a branch of its own on jittered ground truths; here the output shares the layers of the head, and is trained
    on the refined boxes of the positives.
    """

    weight: NonNegativeFloat = 1.0
    beta: NonNegativeFloat = 1.0


@dataclass
class RoIConfig:
    """Box head: ``num_convs`` convolutions with ``norm``, then ``num_fcs`` linear layers of ``fc_dim`` outputs.

    ``num_convs=4, norm="group", num_fcs=1`` is the head of Group Normalization (Wu and He, ECCV 2018).
    ``cls_loss_weight``: weight of the classification loss, which is cross-entropy, or a focal loss with ``focal``, or
    balanced between classes with ``class_balance``.
    ``generated_boxes``: number of boxes that are drawn for each ground truth as further proposals in training, with
    IoUs uniform above the threshold of positives (:func:`libradet.balance.generate_boxes`).
    ``iou``: also predict the IoU of boxes, for ``detections.score_fusion``. ``train_proposals``, ``test_proposals``:
    upper limit of precomputed proposals per image, for a detector without ``rpn``.
    """

    align: RoIAlignConfig = field(default_factory=RoIAlignConfig)
    num_convs: NumLayers = 0
    norm: Norm = "none"
    num_fcs: AtLeastOneLayer = 2
    fc_dim: PositiveInt = 1024
    match: MatchConfig = field(default_factory=MatchConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    add_gt_as_proposals: bool = True
    generated_boxes: NonNegativeInt = 0
    box_std: BoxStd = (0.1, 0.1, 0.2, 0.2)
    class_agnostic: bool = False
    cls_loss_weight: NonNegativeFloat = 1.0
    focal: FocalConfig | None = None
    class_balance: ClassBalanceConfig | None = None
    box_loss: BoxLossConfig = field(default_factory=BoxLossConfig)
    iou: IoUConfig | None = None
    train_proposals: PositiveInt = 2000
    test_proposals: PositiveInt = 1000


@dataclass
class CascadeConfig:
    """Box heads in sequence (Cai and Vasconcelos, CVPR 2018): each refines the boxes of the one before.

    One entry per stage: ``iou_thresholds`` of positives, ``box_stds`` of deltas, ``weights`` of losses. ``average``:
    average the stages' logits (mmdetection) or scores (detectron2).
    """

    iou_thresholds: tuple[PositiveFloat, ...] = (0.5, 0.6, 0.7)
    box_stds: tuple[BoxStd, ...] = (
        (0.1, 0.1, 0.2, 0.2),
        (0.05, 0.05, 0.1, 0.1),
        (0.033, 0.033, 0.067, 0.067),
    )
    weights: tuple[NonNegativeFloat, ...] = (1.0, 0.5, 0.25)
    average: Literal["logits", "scores"] = "logits"


@dataclass
class MaskConfig:
    """Mask head: a mask per detection, with sides of twice ``align.output_size`` (He et al., ICCV 2017)."""

    align: RoIAlignConfig = field(default_factory=lambda: RoIAlignConfig(output_size=14))
    num_convs: NumLayers = 4
    norm: Norm = "none"
    channels: PositiveInt = 256
    weight: NonNegativeFloat = 1.0


@dataclass
class RetinaNetHeadConfig:
    """One-stage head: classes and boxes at every anchor (Lin et al., ICCV 2017).

    ``prior_prob``: score of every class at the start of training. ``topk_candidates``: pairs of anchor and class per
    level that are kept for non-maximum suppression, chosen by ``topk_by`` (see :class:`ProposalConfig`).
    ``clip_last``: boxes are clipped to the image, and dropped if they lie outside, after suppression (detectron2)
    instead of before.
    """

    anchors: AnchorConfig = field(
        default_factory=lambda: AnchorConfig(scales=tuple(4 * 2 ** (i / 3) for i in range(3)))
    )
    num_convs: NumLayers = 4
    norm: Norm = "none"
    match: MatchConfig = field(
        default_factory=lambda: MatchConfig(
            fg_iou_thresh=0.5, bg_iou_thresh=0.4, allow_low_quality_matches=True, min_pos_iou=0.0
        )
    )
    focal: FocalConfig = field(default_factory=FocalConfig)
    prior_prob: OpenUnitInterval = 0.01
    cls_loss_weight: NonNegativeFloat = 1.0
    box_loss: BoxLossConfig = field(default_factory=lambda: BoxLossConfig(beta=0.11))
    topk_candidates: PositiveInt = 1000
    topk_by: Literal["logits", "scores"] = "logits"
    clip_last: bool = False


@dataclass
class DetectorConfig:
    """Everything needed to build a detector, saved with its weights.

    ``category_ids``: ids of the classes in the training dataset, used in result files. ``uncertainty_weighting``: each
    loss L has a learned log variance s and counts as exp(-s) * L + s (Kendall et al., CVPR 2018).
    """

    model: str = "faster_rcnn"
    num_classes: PositiveInt = 80
    class_names: tuple[str, ...] = ()
    category_ids: tuple[str | int, ...] = ()
    image: ImageConfig = field(default_factory=ImageConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    pyramid: PyramidConfig = field(default_factory=PyramidConfig)
    rpn: RPNConfig | None = None
    roi: RoIConfig | None = None
    cascade: CascadeConfig | None = None
    mask: MaskConfig | None = None
    retinanet: RetinaNetHeadConfig | None = None
    uncertainty_weighting: bool = False
    detections: DetectionConfig = field(default_factory=DetectionConfig)

    @property
    def is_proposal_model(self) -> bool:
        """Whether its detections are proposals: objects without a class."""
        return self.roi is None and self.retinanet is None

    @property
    def requires_proposals(self) -> bool:
        """Whether it needs precomputed proposals as input, because it has RoI heads but no RPN."""
        return self.roi is not None and self.rpn is None
