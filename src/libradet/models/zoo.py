"""Model zoo: each name is a function that returns a configuration.

Settings are those of the papers and of the authors' repository (Libra R-CNN, section 4.1).
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from libradet.errors import UserError
from libradet.models.config import (
    BackboneConfig,
    BalancedPyramidConfig,
    BoxLossConfig,
    CascadeConfig,
    DetectionConfig,
    DetectorConfig,
    MaskConfig,
    PyramidConfig,
    RetinaNetHeadConfig,
    RoIConfig,
    RPNConfig,
    SamplingConfig,
)
from libradet.models.load_pretrained import BackboneWeights, inherit_config, pixel_statistics
from libradet.models.plain_vit import uses_simple_pyramid
from libradet.models.serialization import read_config
from libradet.utils.arguments import check_arguments
from libradet.utils.ranges import PositiveInt
from libradet.utils.text import suggest


def faster_rcnn() -> DetectorConfig:
    """Faster R-CNN with FPN (Lin et al., 2017)."""
    return DetectorConfig("faster_rcnn", rpn=RPNConfig(), roi=RoIConfig())


def libra_faster_rcnn() -> DetectorConfig:
    """Libra R-CNN: Faster R-CNN balanced at the sample, feature and objective level."""
    return DetectorConfig("libra_faster_rcnn", pyramid=_balanced(), rpn=_libra_rpn_head(), roi=_libra_box_head())


def balanced_faster_rcnn() -> DetectorConfig:
    """Faster R-CNN, balanced by the variants of the paper's components that paid on small datasets.

    Four times the samples, of which half of the negatives are IoU-balanced and half random; four generated boxes for
    each ground truth, of uniform IoU, among the positives; balanced L1; and a balanced pyramid that starts as the plain
    one.
    """
    box_head = _libra_box_head()
    box_head.sampling = replace(box_head.sampling, batch_size_per_image=2048, random_fraction=0.5)
    box_head.generated_boxes = 4
    pyramid = PyramidConfig(balanced=BalancedPyramidConfig(level=2, refine="non_local", gated=True))
    return DetectorConfig("balanced_faster_rcnn", pyramid=pyramid, rpn=RPNConfig(), roi=box_head)


def fast_rcnn() -> DetectorConfig:
    """Fast R-CNN with FPN, on precomputed proposals."""
    return DetectorConfig("fast_rcnn", roi=RoIConfig())


def libra_fast_rcnn() -> DetectorConfig:
    """Fast R-CNN, balanced at all three levels."""
    return DetectorConfig("libra_fast_rcnn", pyramid=_balanced(), roi=_libra_box_head())


def rpn() -> DetectorConfig:
    """Region proposal network with FPN; its detections are proposals."""
    return DetectorConfig(
        "rpn", rpn=RPNConfig(), detections=DetectionConfig(score_thresh=0.0, nms_thresh=0.7, detections_per_img=1000)
    )


def libra_rpn() -> DetectorConfig:
    """Region proposal network, balanced at all three levels."""
    config = rpn()
    config.model, config.pyramid = "libra_rpn", _balanced()
    config.rpn = _libra_rpn_head()
    config.rpn.sampling.negatives = "iou_balanced"
    # Deltas of an RPN are not divided by a standard deviation, so errors are small: beta is that of its smooth L1.
    config.rpn.box_loss = BoxLossConfig(type="balanced_l1", beta=1 / 9)
    return config


def retinanet() -> DetectorConfig:
    """RetinaNet: one-stage detector with focal loss (Lin et al., 2017)."""
    pyramid = PyramidConfig(start_stride=8, num_levels=5, extra_levels="conv_on_c5")
    return DetectorConfig("retinanet", pyramid=pyramid, retinanet=RetinaNetHeadConfig())


def libra_retinanet() -> DetectorConfig:
    """RetinaNet with balanced pyramid and balanced L1 (its focal loss uses all samples)."""
    config = retinanet()
    config.model, config.pyramid.balanced = "libra_retinanet", BalancedPyramidConfig(level=1)
    config.retinanet = RetinaNetHeadConfig(box_loss=BoxLossConfig(type="balanced_l1", beta=0.11))
    return config


def cascade_rcnn() -> DetectorConfig:
    """Cascade R-CNN: three box heads with increasing IoU thresholds (Cai and Vasconcelos, 2018)."""
    config = DetectorConfig("cascade_rcnn", rpn=RPNConfig(), cascade=CascadeConfig())
    config.roi = RoIConfig(class_agnostic=True)
    return config


def libra_cascade_rcnn() -> DetectorConfig:
    """Cascade R-CNN, balanced at all three levels in every stage."""
    config = DetectorConfig("libra_cascade_rcnn", pyramid=_balanced(), cascade=CascadeConfig())
    config.rpn, config.roi = _libra_rpn_head(), _libra_box_head()
    config.roi.class_agnostic = True
    return config


def mask_rcnn() -> DetectorConfig:
    """Mask R-CNN with FPN: Faster R-CNN with a mask head (He et al., 2017)."""
    return DetectorConfig("mask_rcnn", rpn=RPNConfig(), roi=RoIConfig(), mask=MaskConfig())


def libra_mask_rcnn() -> DetectorConfig:
    """Mask R-CNN, balanced at all three levels."""
    config = DetectorConfig("libra_mask_rcnn", pyramid=_balanced(), mask=MaskConfig())
    config.rpn, config.roi = _libra_rpn_head(), _libra_box_head()
    return config


def _balanced() -> PyramidConfig:
    return PyramidConfig(balanced=BalancedPyramidConfig(level=2, refine="non_local"))


def _libra_rpn_head() -> RPNConfig:
    config = RPNConfig()
    config.sampling.neg_pos_ub = 5.0
    return config


def _libra_box_head() -> RoIConfig:
    return RoIConfig(
        sampling=SamplingConfig(positives="instance_balanced", negatives="iou_balanced", num_bins=3),
        box_loss=BoxLossConfig(type="balanced_l1", alpha=0.5, gamma=1.5, beta=1.0),
    )


_MODEL_FUNCTIONS = (
    *(faster_rcnn, libra_faster_rcnn, balanced_faster_rcnn, fast_rcnn, libra_fast_rcnn),
    *(rpn, libra_rpn, retinanet, libra_retinanet),
    *(cascade_rcnn, libra_cascade_rcnn, mask_rcnn, libra_mask_rcnn),
)
MODELS: dict[str, Callable[[], DetectorConfig]] = {function.__name__: function for function in _MODEL_FUNCTIONS}


@check_arguments
def make_config(
    name: str,
    num_classes: PositiveInt = 80,
    backbone: str | None = None,
    weights: str | Path | DetectorConfig | BackboneWeights | None = None,
) -> DetectorConfig:
    """Return the configuration of a model of the zoo.

    Args:
        name: one of ``MODELS``.
        backbone: a timm model with features; that of the zoo entry if None. On a plain ViT, the pyramid is ViTDet's.
        weights: None for training from random values. With ``"imagenet"``, or a backbone's weights from a file, stem,
            first stage and norm statistics are frozen (not of a plain ViT), and images are normalized as in the
            training of these weights.
            Of a saved model (its path or configuration), preprocessing, backbone and conventions are inherited, see
            :func:`libradet.models.load_pretrained.inherit_config`.

    Raises:
        UserError: unknown name, with the most similar one.
    """
    if name not in MODELS:
        similar = suggest(name, MODELS)
        hint = f"did you mean {similar!r}?" if similar else f"choose from {', '.join(MODELS)}"
        raise UserError(f"there is no model {name!r}; {hint}")
    config = MODELS[name]()
    config.num_classes = num_classes
    backbone_only = weights == "imagenet" or isinstance(weights, BackboneWeights)
    if backbone_only:
        config.backbone = BackboneConfig(config.backbone.name, freeze_at=2, frozen_norm=True)
    elif weights is not None and not isinstance(weights, BackboneWeights):
        trained = weights if isinstance(weights, DetectorConfig) else read_config(weights)
        config = inherit_config(config, trained)
        if backbone not in (None, trained.backbone.name):
            config.backbone = BackboneConfig()
    if backbone is not None:
        config.backbone = replace(config.backbone, name=backbone)
    if backbone_only and (statistics := pixel_statistics(config.backbone.name)):
        config.image = replace(config.image, mean=statistics[0], std=statistics[1])
    if uses_simple_pyramid(config.backbone.name):
        _adapt_to_plain_vit(config, backbone_only)
    return config


def _adapt_to_plain_vit(config: DetectorConfig, backbone_only: bool) -> None:
    """Set the pyramid of ViTDet (Li et al., 2022), which trains the whole backbone."""
    pyramid = config.pyramid
    if pyramid.type != "simple":
        extra_levels = "max_pool" if pyramid.extra_levels == "max_pool" else "conv_on_p5"
        config.pyramid = replace(pyramid, type="simple", norm="layer", extra_levels=extra_levels)
    if backbone_only:
        config.backbone.freeze_at = 0
