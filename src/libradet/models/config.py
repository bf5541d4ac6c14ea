"""The one schema of a detector: a tree of dataclasses.

A zoo name is a function that returns such a tree; YAML and the command line override its fields. Which
heads a detector has is which of ``rpn``, ``roi``, ``cascade``, ``mask`` and ``dense`` are not None:

- ``rpn`` alone: its proposals are the detections;
- ``roi`` alone: the second stage on precomputed proposals (Fast R-CNN);
- ``rpn`` and ``roi``: both stages; with ``cascade`` several second stages, with ``mask`` masks too;
- ``dense``: one stage.
"""

from dataclasses import dataclass, field
from typing import Literal

Norm = Literal["none", "batch", "group"]
"""What follows a convolution of pyramid or head: nothing, batch norm, or group norm of 32 groups."""

LOSS_WEIGHTS = "loss_weights."
"""What the names of learned weights of losses begin with among a detector's parameters. They serve training alone."""


@dataclass
class ImageConfig:
    """How images enter: resized so that the short side is ``size[0]`` unless the long one exceeds ``size[1]``.

    ``divisor``: sides of the canvas are multiples of it; 0 is what backbone (32) and balanced
    pyramid (its coarsest stride) need. Images' borders look
    different to a detector on another canvas.

    ``own_canvas``: measuring, too, puts every image on the smallest canvas that holds it, as predicting always
    does. What is found in it is then a function of the image alone, and not of the dataset that it is in, from
    which a few canvases are chosen otherwise, for fuller batches.
    """

    size: tuple[int, int] = (800, 1333)
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    channels: Literal["rgb", "bgr"] = "rgb"
    divisor: int = 0
    own_canvas: bool = False


@dataclass
class BackboneConfig:
    """A timm feature extractor.

    ``freeze_at``: 0 nothing, 1 the stem, 2 stem and first stage. ``frozen_norm``: batch norms use (and
    keep) their stored statistics. ``norm_eps``: what their variances are increased by; None as the model has
    it. ``stride_in_1x1``: blocks of a ResNet subsample in their first convolution (Caffe), not in their second.
    """

    name: str = "resnet50"
    freeze_at: int = 0
    frozen_norm: bool = False
    norm_eps: float | None = None
    stride_in_1x1: bool = False


@dataclass
class BalancedPyramidConfig:
    """Balanced feature pyramid (paper 3.2): ``level`` is the index of the size at which levels are averaged."""

    level: int = 2
    refine: Literal["none", "conv", "non_local"] = "non_local"


@dataclass
class PyramidConfig:
    """Feature pyramid: ``levels`` outputs from stride ``first_stride`` on; ``extra`` makes those above C5.

    ``extra_relu``: a ReLU before the second and further extra convolutions. ``norm``: behind every convolution
    but the extra ones.
    """

    kind: Literal["fpn", "pafpn"] = "fpn"
    channels: int = 256
    levels: int = 5
    first_stride: int = 4
    extra: Literal["max_pool", "conv_on_c5", "conv_on_p5"] = "max_pool"
    extra_relu: bool = False
    norm: Norm = "none"
    balanced: BalancedPyramidConfig | None = None


@dataclass
class AnchorConfig:
    """Anchors of side ``scale x stride`` at every cell; ``offset`` 0 puts them on cell corners, 0.5 on centers.

    ``truncated``: that side is cut to whole pixels. ``rounded``: corners are whole pixels. ``fitted``: the
    cells of a level divide the canvas, rounded down to whole pixels, where a coarse level does not fit it.
    torchvision's are all that.
    """

    scales: tuple[float, ...] = (8.0,)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    offset: float = 0.0
    truncated: bool = False
    rounded: bool = False
    fitted: bool = False


@dataclass
class MatchConfig:
    """IoU from which a candidate is positive, and below which it is negative; between is ignored.

    ``low_quality``: every ground truth also claims its best candidates if their IoU is at least
    ``min_positive``. Candidates that lie in a crowd region by more than ``crowd`` are ignored.
    """

    positive: float = 0.5
    negative: float = 0.5
    low_quality: bool = False
    min_positive: float = 0.5
    crowd: float = 0.5


@dataclass
class SamplingConfig:
    """Which candidates a loss sees (paper 3.1)."""

    size: int = 512
    positive_fraction: float = 0.25
    positives: Literal["random", "instance_balanced", "hardest"] = "random"
    negatives: Literal["random", "iou_balanced", "hardest"] = "random"
    num_bins: int = 3
    bins: Literal["paper", "mmdet"] = "paper"
    negatives_per_positive: float | None = None


@dataclass
class BoxLossConfig:
    """Localization loss (paper 3.3); ``beta`` is where the linear part starts.

    ``iou``, ``giou``, ``diou`` and ``ciou`` compare decoded boxes instead of deltas: one number per box, not
    four, so they want a larger ``weight``.
    """

    kind: Literal["l1", "smooth_l1", "balanced_l1", "iou", "giou", "diou", "ciou"] = "smooth_l1"
    weight: float = 1.0
    beta: float = 1.0
    alpha: float = 0.5
    gamma: float = 1.5
    variant: Literal["paper", "mmdet"] = "paper"


@dataclass
class ProposalConfig:
    """Suppression of proposals: ``per_level`` best of each level before, ``total`` after.

    ``rank``: what they are sorted by; which of equal ``scores`` comes first matters where many are nearly 1.
    """

    per_level: int = 2000
    total: int = 2000
    nms: float = 0.7
    min_size: float = 0.0
    rank: Literal["logits", "scores"] = "logits"


@dataclass
class RPNConfig:
    """Region proposal network.

    ``allowed_border``: anchors that cross the image's border by more pixels are ignored in training; null ignores
    none. mmdetection's Cascade R-CNN has 0.
    """

    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    convs: int = 1
    allowed_border: float | None = None
    match: MatchConfig = field(
        default_factory=lambda: MatchConfig(positive=0.7, negative=0.3, low_quality=True, min_positive=0.3)
    )
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(size=256, positive_fraction=0.5))
    box_loss: BoxLossConfig = field(default_factory=lambda: BoxLossConfig(beta=1 / 9))
    train_proposals: ProposalConfig = field(default_factory=ProposalConfig)
    test_proposals: ProposalConfig = field(default_factory=lambda: ProposalConfig(per_level=1000, total=1000))


@dataclass
class RoIAlignConfig:
    """``sampling_ratio`` 0 adapts the number of samples to the size of the box."""

    size: int = 7
    sampling_ratio: int = 2
    aligned: bool = True
    levels: int = 4
    canonical_size: float = 224.0
    canonical_level: int = 4


@dataclass
class DetectionConfig:
    """What leaves the detector: the ``total`` best of what scores more than ``score`` and whose sides exceed
    ``min_size`` pixels, after boxes of a class have suppressed each other.

    ``nms``: the IoU above which they do. ``suppression``: ``nms`` drops the worse one. Soft-NMS (Bodla et al., ICCV
    2017) lowers its score instead, and drops it where it falls to ``floor``: ``soft_linear`` multiplies it by 1 - IoU
    above the IoU ``nms``, ``soft_gaussian`` by exp(-IoU² / ``sigma``) at any IoU. ``quality``: what becomes of the
    IoU that ``roi.iou`` predicts: nothing; ``multiply``: it is multiplied with the score, before anything is compared
    with ``score``; ``guide``: boxes suppress each other in its order, and who stays gets the best score of those it
    suppressed (IoU-guided NMS; Jiang et al., ECCV 2018).
    """

    score: float = 0.05
    nms: float = 0.5
    total: int = 100
    min_size: float = 0.0
    suppression: Literal["nms", "soft_linear", "soft_gaussian"] = "nms"
    sigma: float = 0.5
    floor: float = 0.001
    quality: Literal["none", "multiply", "guide"] = "none"


@dataclass
class FocalConfig:
    """Focal loss (Lin et al., ICCV 2017)."""

    alpha: float = 0.25
    gamma: float = 2.0


@dataclass
class IoUConfig:
    """A further output of the second stage, of a cascade's last one: the IoU of each refined box with its object
    (IoU-Net; Jiang et al., ECCV 2018), one for each class, or one for all if the stage is ``class_agnostic``.

    It is learned by smooth L1 on the IoU stretched to -1..1, as there; ``beta`` is where the linear part starts.
    There, boxes to learn from are objects moved about to an IoU of at least 0.5, and the branch has linear layers of
    its own; here they are the refined boxes of the positives that the other losses see, objects among them if they
    are added to the proposals, and the output shares the stage's layers.
    """

    weight: float = 1.0
    beta: float = 1.0


@dataclass
class RoIConfig:
    """Second stage: ``convs`` convolutions with ``norm``, then ``fcs`` linear layers of ``width``.

    ``convs=4, norm="group", fcs=1`` is the head of Group Normalization (Wu and He, ECCV 2018). ``focal`` makes
    the classification loss a focal one. ``iou``: also predict how well boxes lie, for ``detections.quality``.
    ``train_proposals``, ``test_proposals``: the most that it is given of an image where there is no ``rpn``.
    """

    align: RoIAlignConfig = field(default_factory=RoIAlignConfig)
    convs: int = 0
    norm: Norm = "none"
    fcs: int = 2
    width: int = 1024
    match: MatchConfig = field(default_factory=MatchConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    add_ground_truth: bool = True
    box_std: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    class_agnostic: bool = False
    class_weight: float = 1.0
    focal: FocalConfig | None = None
    box_loss: BoxLossConfig = field(default_factory=BoxLossConfig)
    iou: IoUConfig | None = None
    train_proposals: int = 2000
    test_proposals: int = 1000


@dataclass
class CascadeConfig:
    """Second stages one after the other (Cai and Vasconcelos, CVPR 2018): each refines the boxes of the one before.

    ``ious``: from which a stage's candidates are positive. ``box_stds``: of its deltas. ``weights``: of its
    losses. ``average``: what of the stages' classifiers is averaged, logits (mmdetection) or softmax scores
    (detectron2).
    """

    ious: tuple[float, ...] = (0.5, 0.6, 0.7)
    box_stds: tuple[tuple[float, float, float, float], ...] = (
        (0.1, 0.1, 0.2, 0.2),
        (0.05, 0.05, 0.1, 0.1),
        (0.033, 0.033, 0.067, 0.067),
    )
    weights: tuple[float, ...] = (1.0, 0.5, 0.25)
    average: Literal["logits", "scores"] = "logits"


@dataclass
class MaskConfig:
    """A mask for each detection, of twice ``align.size`` on a side (He et al., ICCV 2017)."""

    align: RoIAlignConfig = field(default_factory=lambda: RoIAlignConfig(size=14))
    convs: int = 4
    norm: Norm = "none"
    channels: int = 256
    weight: float = 1.0


@dataclass
class DenseConfig:
    """One stage: classes and boxes at every anchor.

    ``prior``: what a fresh head scores everything with. ``per_level``: how many pairs of anchor and class of
    each level go on to suppression, chosen by ``rank`` (see :class:`ProposalConfig`). ``clip_last``: boxes are
    cut to the image, and dropped where they lie outside, after they suppressed each other (detectron2), not
    before.
    """

    anchors: AnchorConfig = field(
        default_factory=lambda: AnchorConfig(scales=tuple(4 * 2 ** (i / 3) for i in range(3)))
    )
    convs: int = 4
    norm: Norm = "none"
    match: MatchConfig = field(
        default_factory=lambda: MatchConfig(positive=0.5, negative=0.4, low_quality=True, min_positive=0.0)
    )
    focal: FocalConfig = field(default_factory=FocalConfig)
    prior: float = 0.01
    class_weight: float = 1.0
    box_loss: BoxLossConfig = field(default_factory=lambda: BoxLossConfig(beta=0.11))
    per_level: int = 1000
    rank: Literal["logits", "scores"] = "logits"
    clip_last: bool = False


@dataclass
class DetectorConfig:
    """Everything needed to build a detector, and all that a saved model has to remember about itself.

    ``category_ids`` are the ids that the training dataset calls its classes by, for writing results.
    ``learned_weights``: each loss L has a variance that is learned with everything else, and counts
    exp(-s) * L + s, s being its logarithm (Kendall et al., CVPR 2018).
    """

    model: str = "faster_rcnn"
    num_classes: int = 80
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    image: ImageConfig = field(default_factory=ImageConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    pyramid: PyramidConfig = field(default_factory=PyramidConfig)
    rpn: RPNConfig | None = None
    roi: RoIConfig | None = None
    cascade: CascadeConfig | None = None
    mask: MaskConfig | None = None
    dense: DenseConfig | None = None
    learned_weights: bool = False
    detections: DetectionConfig = field(default_factory=DetectionConfig)

    @property
    def proposes(self) -> bool:
        """Whether its detections are proposals: objects without a class."""
        return self.roi is None and self.dense is None

    @property
    def takes_proposals(self) -> bool:
        """Whether it has to be given proposals, because it does not look for any."""
        return self.roi is not None and self.rpn is None
