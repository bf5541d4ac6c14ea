"""detectron2's Faster, Mask and Cascade R-CNN, RPN and RetinaNet with FPN (.pkl of its zoo, .pth of its trainer)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from libradet.interop.checkpoint_format import (
    CheckpointFormat,
    KeyMap,
    StateDictLayout,
    Tensors,
    conv_key_map,
    infer_norm,
)
from libradet.interop.coco_classes import class_names_and_ids
from libradet.interop.resnet import ResNetNaming, infer_backbone_name, resnet_key_map
from libradet.models.config import (
    BackboneConfig,
    BoxLossConfig,
    CascadeConfig,
    DetectorConfig,
    ImageConfig,
    MaskConfig,
    RoIConfig,
)
from libradet.models.zoo import make_config

NAMING = ResNetNaming(
    "backbone.bottom_up.",
    stem_conv="stem.conv1",
    stem_norm="stem.conv1.norm",
    stage="res",
    first=2,
    norm="conv{}.norm",
    shortcut_conv="shortcut",
    shortcut_norm="shortcut.norm",
)
# Buffers that older versions saved: pixel statistics, which are read, and anchors, which are recomputed.
BUFFERS = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.", "anchor_generator.")
MEAN = (103.53, 116.28, 123.675)


def matches(tensors: Tensors) -> bool:
    """Return whether tensors have the names of detectron2's backbone and pyramid."""
    return "backbone.bottom_up.stem.conv1.weight" in tensors and any(
        n.startswith("backbone.fpn_lateral") for n in tensors
    )


def normalize_keys(tensors: Tensors) -> dict[str, Tensor]:
    """Return the tensors as they are: detectron2's names have not changed."""
    return dict(tensors)


def infer_config(tensors: Tensors, meta: Mapping[str, Any]) -> DetectorConfig:
    """Return the configuration that names and shapes describe, with the settings of detectron2's model zoo.

    Raises:
        UserError: the detector is not supported.
    """
    config = _infer_retinanet(tensors) if "head.cls_score.weight" in tensors else _infer_two_stage(tensors)
    config.pyramid.channels = tensors["backbone.fpn_lateral5.weight"].shape[0]
    config.pyramid.norm = infer_norm(tensors, "backbone.fpn_lateral5.norm")
    name = infer_backbone_name(tensors, NAMING)
    config.image = _infer_image(tensors, grouped="x" in name)
    # Caffe's weights expect images that are not divided by a std; others have their stride in the 3 x 3 convolution.
    caffe = config.image.std == (1.0, 1.0, 1.0)
    # Frozen norms do not count batches.
    frozen = f"{NAMING.prefix}{NAMING.stem_norm}.num_batches_tracked" not in tensors
    config.backbone = BackboneConfig(name, freeze_at=2, frozen_norm=frozen, stride_in_1x1=caffe)
    config.class_names, config.category_ids = class_names_and_ids(config.num_classes)
    return config


def layout(tensors: Tensors | None, config: DetectorConfig) -> StateDictLayout:
    """Return the layout of a state dict; background is last, as in ours."""
    keys = [
        *resnet_key_map(NAMING),
        *_pyramid_keys(config),
        *_rpn_keys(),
        *_mask_keys(config),
        *_retinanet_keys(config),
    ]
    if config.roi is not None:
        stages = [f"{i}." for i in range(len(config.cascade.iou_thresholds))] if config.cascade else [""]
        for stage in stages:
            keys += _box_keys(config.roi, stage)
    return StateDictLayout(keys, sizes_first=config.retinanet is not None, ignored=BUFFERS)


def _infer_two_stage(tensors: Tensors) -> DetectorConfig:
    cascade = "roi_heads.box_predictor.0.cls_score.weight" in tensors
    box_head = cascade or "roi_heads.box_predictor.cls_score.weight" in tensors
    masks = "roi_heads.mask_head.predictor.weight" in tensors
    if cascade:
        model = "cascade_rcnn"
    elif masks:
        model = "mask_rcnn"
    else:
        model = "faster_rcnn" if box_head else "rpn"
    config = make_config(model)
    assert config.rpn is not None
    config.rpn.box_loss = BoxLossConfig(type="l1")
    config.rpn.train_proposals.post_nms_top_n = 2000 if cascade or config.is_proposal_model else 1000
    if config.is_proposal_model:
        config.rpn.test_proposals.post_nms_top_n = config.detections.detections_per_img = 2000
    if cascade:
        stds = [(0.1 / n, 0.1 / n, 0.2 / n, 0.2 / n) for n in (1, 2, 3)]
        config.cascade = CascadeConfig(box_stds=tuple(stds), weights=(1.0, 1.0, 1.0), average="scores")
        config.mask = MaskConfig() if masks else None
    for stage in (config.roi, config.mask):
        if stage is not None:
            stage.align.sampling_ratio, stage.align.aligned = 0, True
    if config.roi is not None:
        config.num_classes = _infer_box_head(config.roi, tensors, "0." if cascade else "")
        # The box head keeps boxes without area.
        config.detections.min_size = -1.0
    if config.mask is not None:
        config.mask.num_convs = _count(tensors, "roi_heads.mask_head.mask_fcn{}")
        config.mask.norm = infer_norm(tensors, "roi_heads.mask_head.mask_fcn1.norm")
    return config


def _infer_box_head(roi: RoIConfig, tensors: Tensors, stage: str) -> int:
    """Set the configuration of a box head from its tensors, and return the number of classes."""
    classes = tensors[f"roi_heads.box_predictor.{stage}cls_score.weight"]
    roi.fc_dim = classes.shape[1]
    roi.num_convs = _count(tensors, f"roi_heads.box_head.{stage}conv{{}}")
    roi.norm = infer_norm(tensors, f"roi_heads.box_head.{stage}conv1.norm")
    roi.num_fcs = _count(tensors, f"roi_heads.box_head.{stage}fc{{}}")
    roi.class_agnostic = tensors[f"roi_heads.box_predictor.{stage}bbox_pred.weight"].shape[0] == 4
    roi.box_loss = BoxLossConfig(type="l1")
    return classes.shape[0] - 1


def _count(tensors: Tensors, name: str) -> int:
    return sum(f"{name.format(i)}.weight" in tensors for i in range(1, 10))


def _infer_retinanet(tensors: Tensors) -> DetectorConfig:
    config = make_config("retinanet")
    assert config.retinanet is not None
    config.num_classes = tensors["head.cls_score.weight"].shape[0] * 4 // tensors["head.bbox_pred.weight"].shape[0]
    config.retinanet.norm = infer_norm(tensors, "head.cls_subnet.1")
    config.retinanet.box_loss = BoxLossConfig(type="smooth_l1", beta=0.1)
    config.retinanet.clip_last = True
    wide = tensors["backbone.top_block.p6.weight"].shape[1] != tensors["backbone.fpn_lateral5.weight"].shape[0]
    config.pyramid.extra_levels, config.pyramid.extra_relu = "conv_on_c5" if wide else "conv_on_p5", True
    config.detections.min_size = -1.0
    return config


def _infer_image(tensors: Tensors, grouped: bool) -> ImageConfig:
    mean, std = MEAN, (57.375, 57.12, 58.395) if grouped else (1.0, 1.0, 1.0)
    if "pixel_mean" in tensors and "pixel_std" in tensors:
        b, g, r = tensors["pixel_mean"].flatten().tolist()
        mean = (b, g, r)
        b, g, r = tensors["pixel_std"].flatten().tolist()
        std = (b, g, r)
    return ImageConfig(mean=mean, std=std, channels="rgb" if mean[0] > mean[2] else "bgr", size_divisible=32)


def _pyramid_keys(config: DetectorConfig) -> KeyMap:
    keys: KeyMap = []
    first = 2 if config.pyramid.start_stride == 4 else 3
    for i in range(4):
        for part in ("lateral", "output"):
            name = f"backbone.fpn_{part}{i + first}"
            keys += conv_key_map(name, f"{name}.norm", f"pyramid.{part}.{i}", config.pyramid.norm)
        keys.append((f"backbone.top_block.p{i + 6}", f"pyramid.extra_convs.{i}"))
    return keys


def _rpn_keys() -> KeyMap:
    theirs = "proposal_generator.rpn_head."
    return [
        (f"{theirs}conv", "rpn.convs.0"),
        (f"{theirs}objectness_logits", "rpn.logits"),
        (f"{theirs}anchor_deltas", "rpn.deltas"),
    ]


def _box_keys(roi: RoIConfig, stage: str) -> KeyMap:
    head, ours = f"roi_heads.box_head.{stage}", f"roi.{stage}"
    keys = [(f"{head}fc{i + 1}", f"{ours}fc{i + 1}") for i in range(roi.num_fcs)]
    for i in range(roi.num_convs):
        keys += conv_key_map(f"{head}conv{i + 1}", f"{head}conv{i + 1}.norm", f"{ours}convs.{i}", roi.norm)
    predictor = f"roi_heads.box_predictor.{stage}"
    return [*keys, (f"{predictor}cls_score", f"{ours}logits"), (f"{predictor}bbox_pred", f"{ours}deltas")]


def _mask_keys(config: DetectorConfig) -> KeyMap:
    if config.mask is None:
        return []
    head, keys = "roi_heads.mask_head.", []
    for i in range(config.mask.num_convs):
        name = f"{head}mask_fcn{i + 1}"
        keys += conv_key_map(name, f"{name}.norm", f"mask.convs.{i}", config.mask.norm)
    return [*keys, (f"{head}deconv", "mask.deconv"), (f"{head}predictor", "mask.logits")]


def _retinanet_keys(config: DetectorConfig) -> KeyMap:
    if config.retinanet is None:
        return []
    # A sequence of convolution, norm if any, and ReLU.
    step, keys = 2 if config.retinanet.norm == "none" else 3, []
    for theirs, ours in (("cls_subnet", "class_convs"), ("bbox_subnet", "box_convs")):
        for i in range(config.retinanet.num_convs):
            names = (f"head.{theirs}.{step * i}", f"head.{theirs}.{step * i + 1}", f"retinanet.{ours}.{i}")
            keys += conv_key_map(*names, config.retinanet.norm)
    return [*keys, ("head.cls_score", "retinanet.logits"), ("head.bbox_pred", "retinanet.deltas")]


FORMAT = CheckpointFormat("detectron2", matches, normalize_keys, infer_config, layout)
