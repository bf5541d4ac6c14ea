"""The zoo: a name is a function that returns a configuration.

Settings are those of the papers and of the authors' repository (Libra R-CNN, section 4.1).
"""

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from libradet.errors import UserError
from libradet.models.config import (
    BackboneConfig,
    BalancedPyramidConfig,
    BoxLossConfig,
    CascadeConfig,
    DenseConfig,
    DetectionConfig,
    DetectorConfig,
    MaskConfig,
    PyramidConfig,
    RoIConfig,
    RPNConfig,
    SamplingConfig,
)
from libradet.models.pretrained import BackboneWeights, pixel_statistics
from libradet.models.saved_config import read_config
from libradet.models.transfer import follow


def faster_rcnn() -> DetectorConfig:
    """Faster R-CNN with FPN (Lin et al., 2017)."""
    return DetectorConfig("faster_rcnn", rpn=RPNConfig(), roi=RoIConfig())


def libra_faster_rcnn() -> DetectorConfig:
    """Libra R-CNN: Faster R-CNN balanced at the sample, feature and objective level."""
    return DetectorConfig("libra_faster_rcnn", pyramid=_balanced(), rpn=_libra_first_stage(), roi=_libra_second_stage())


def fast_rcnn() -> DetectorConfig:
    """Fast R-CNN with FPN: the second stage alone, on precomputed proposals."""
    return DetectorConfig("fast_rcnn", roi=RoIConfig())


def libra_fast_rcnn() -> DetectorConfig:
    """Fast R-CNN, balanced at all three levels."""
    return DetectorConfig("libra_fast_rcnn", pyramid=_balanced(), roi=_libra_second_stage())


def rpn() -> DetectorConfig:
    """Region proposal network with FPN: proposals are its detections."""
    return DetectorConfig("rpn", rpn=RPNConfig(), detections=DetectionConfig(score=0.0, nms=0.7, total=1000))


def libra_rpn() -> DetectorConfig:
    """Region proposal network, balanced at all three levels."""
    config = rpn()
    config.model, config.pyramid = "libra_rpn", _balanced()
    first = _libra_first_stage()
    first.sampling.negatives = "iou_balanced"
    # Deltas are not divided by a standard deviation here, so errors are small: beta is that of its smooth L1.
    first.box_loss = BoxLossConfig(kind="balanced_l1", beta=1 / 9)
    config.rpn = first
    return config


def retinanet() -> DetectorConfig:
    """RetinaNet: one stage with focal loss (Lin et al., 2017)."""
    pyramid = PyramidConfig(first_stride=8, levels=5, extra="conv_on_c5")
    return DetectorConfig("retinanet", pyramid=pyramid, dense=DenseConfig())


def libra_retinanet() -> DetectorConfig:
    """RetinaNet with balanced pyramid and balanced L1 (focal loss sees all samples)."""
    config = retinanet()
    config.model, config.pyramid.balanced = "libra_retinanet", BalancedPyramidConfig(level=1)
    config.dense = DenseConfig(box_loss=BoxLossConfig(kind="balanced_l1", beta=0.11))
    return config


def cascade_rcnn() -> DetectorConfig:
    """Cascade R-CNN: three second stages of rising IoU threshold (Cai and Vasconcelos, 2018)."""
    config = DetectorConfig("cascade_rcnn", rpn=RPNConfig(), cascade=CascadeConfig())
    config.roi = RoIConfig(class_agnostic=True)
    return config


def libra_cascade_rcnn() -> DetectorConfig:
    """Cascade R-CNN, balanced at all three levels in every stage."""
    config = DetectorConfig("libra_cascade_rcnn", pyramid=_balanced(), cascade=CascadeConfig())
    config.rpn, config.roi = _libra_first_stage(), _libra_second_stage()
    config.roi.class_agnostic = True
    return config


def mask_rcnn() -> DetectorConfig:
    """Mask R-CNN with FPN: Faster R-CNN that also gives masks (He et al., 2017)."""
    return DetectorConfig("mask_rcnn", rpn=RPNConfig(), roi=RoIConfig(), mask=MaskConfig())


def libra_mask_rcnn() -> DetectorConfig:
    """Mask R-CNN, balanced at all three levels."""
    config = DetectorConfig("libra_mask_rcnn", pyramid=_balanced(), mask=MaskConfig())
    config.rpn, config.roi = _libra_first_stage(), _libra_second_stage()
    return config


def _balanced() -> PyramidConfig:
    return PyramidConfig(balanced=BalancedPyramidConfig(level=2, refine="non_local"))


def _libra_first_stage() -> RPNConfig:
    config = RPNConfig()
    config.sampling.negatives_per_positive = 5.0
    return config


def _libra_second_stage() -> RoIConfig:
    return RoIConfig(
        sampling=SamplingConfig(positives="instance_balanced", negatives="iou_balanced", num_bins=3),
        box_loss=BoxLossConfig(kind="balanced_l1", alpha=0.5, gamma=1.5, beta=1.0),
    )


MODELS: dict[str, Callable[[], DetectorConfig]] = {
    f.__name__: f
    for f in (
        *(faster_rcnn, libra_faster_rcnn, fast_rcnn, libra_fast_rcnn, rpn, libra_rpn, retinanet, libra_retinanet),
        *(cascade_rcnn, libra_cascade_rcnn, mask_rcnn, libra_mask_rcnn),
    )
}


def make_config(
    name: str,
    num_classes: int = 80,
    backbone: str | None = None,
    weights: str | Path | DetectorConfig | BackboneWeights | None = None,
) -> DetectorConfig:
    """The configuration behind a zoo name.

    Args:
        name: one of ``MODELS``.
        backbone: a timm model with features; the entry's own if None.
        weights: None trains everything from random values; ``"imagenet"`` freezes the stem, the first
            stage and the norms' statistics, and normalizes images as those weights want it, as do a backbone's
            weights from a file; of a saved model (its path, or a trained detector's configuration)
            images, backbone and conventions are taken over, see :func:`libradet.models.transfer.follow`.

    Raises:
        UserError: unknown name, with the nearest one.
    """
    if name not in MODELS:
        near = get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(MODELS)}"
        raise UserError(f"there is no model {name!r}; {hint}")
    config = MODELS[name]()
    config.num_classes = num_classes
    alone = weights == "imagenet" or isinstance(weights, BackboneWeights)
    if alone:
        config.backbone = BackboneConfig(config.backbone.name, freeze_at=2, frozen_norm=True)
    elif weights is not None and not isinstance(weights, BackboneWeights):
        trained = weights if isinstance(weights, DetectorConfig) else read_config(weights)
        config = follow(config, trained)
        if backbone not in (None, trained.backbone.name):
            config.backbone = BackboneConfig()
    if backbone is not None:
        config.backbone = replace(config.backbone, name=backbone)
    if alone and (statistics := pixel_statistics(config.backbone.name)):
        config.image = replace(config.image, mean=statistics[0], std=statistics[1])
    return config
