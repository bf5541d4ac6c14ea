"""detectron2's Faster R-CNN, Mask R-CNN, RPN and RetinaNet with FPN (.pkl of its model zoo, .pth of its trainer)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from libradet.errors import UserError
from libradet.interop.coco_classes import names_and_ids
from libradet.interop.family import Family, Layout, Tensors
from libradet.interop.resnet import Naming, Pairs, name_backbone, resnet_pairs
from libradet.models.config import BackboneConfig, DetectorConfig, ImageConfig
from libradet.models.zoo import make_config

NAMING = Naming(
    "backbone.bottom_up.",
    stem_conv="stem.conv1",
    stem_norm="stem.conv1.norm",
    stage="res",
    first=2,
    norm="conv{}.norm",
    shortcut_conv="shortcut",
    shortcut_norm="shortcut.norm",
)
# Buffers that older versions saved: the picture's norm, which is read, and anchors, which are made anew.
BUFFERS = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.", "anchor_generator.")
MEAN = (103.53, 116.28, 123.675)


def recognises(tensors: Tensors) -> bool:
    """Whether there are detectron2's backbone and pyramid."""
    return "backbone.bottom_up.stem.conv1.weight" in tensors and any(
        n.startswith("backbone.fpn_lateral") for n in tensors
    )


def normalise(tensors: Tensors) -> dict[str, Tensor]:
    """Names as they are: they have not changed."""
    return dict(tensors)


def describe(tensors: Tensors, meta: Mapping[str, Any]) -> DetectorConfig:
    """What the tensors' names and shapes say, and the settings of detectron2's model zoo. Raises UserError."""
    if any(n.startswith("roi_heads.box_head.0.") for n in tensors):
        raise UserError("a Cascade R-CNN, which libradet cannot take over from there yet")
    config = _describe_dense(tensors) if "head.cls_score.weight" in tensors else _describe_stages(tensors)
    config.pyramid.channels = tensors["backbone.fpn_lateral5.weight"].shape[0]
    name = name_backbone(tensors, NAMING)
    config.image = _image(tensors, grouped="x" in name)
    # Weights from Caffe expect pictures that are not divided; those from elsewhere subsample in the 3 × 3.
    caffe = config.image.std == (1.0, 1.0, 1.0)
    config.backbone = BackboneConfig(name, freeze_at=2, frozen_norm=True, stride_in_1x1=caffe)
    config.class_names, config.category_ids = names_and_ids(config.num_classes)
    return config


def layout(tensors: Tensors | None, config: DetectorConfig) -> Layout:
    """Background is last, as it is here."""
    pairs = [*resnet_pairs(NAMING), *_pyramid_pairs(config), *_head_pairs()]
    return Layout(pairs, sizes_first=config.dense is not None, ignored=BUFFERS)


def _describe_stages(tensors: Tensors) -> DetectorConfig:
    second = "roi_heads.box_predictor.cls_score.weight" in tensors
    masks = "roi_heads.mask_head.predictor.weight" in tensors
    config = make_config("mask_rcnn" if masks else "faster_rcnn" if second else "rpn")
    if config.proposes and config.rpn is not None:
        config.rpn.test_proposals.total = config.detections.total = 2000
    for stage in (config.roi, config.mask):
        if stage is not None:
            stage.align.sampling_ratio, stage.align.aligned = 0, True
    if config.roi is not None:
        config.num_classes = tensors["roi_heads.box_predictor.cls_score.weight"].shape[0] - 1
        config.roi.width = tensors["roi_heads.box_head.fc1.weight"].shape[0]
        config.roi.class_agnostic = tensors["roi_heads.box_predictor.bbox_pred.weight"].shape[0] == 4
        # The second stage keeps boxes without area.
        config.detections.min_size = -1.0
    return config


def _describe_dense(tensors: Tensors) -> DetectorConfig:
    config = make_config("retinanet")
    config.num_classes = tensors["head.cls_score.weight"].shape[0] * 4 // tensors["head.bbox_pred.weight"].shape[0]
    wide = tensors["backbone.top_block.p6.weight"].shape[1] != tensors["backbone.fpn_lateral5.weight"].shape[0]
    config.pyramid.extra, config.pyramid.extra_relu = "conv_on_c5" if wide else "conv_on_p5", True
    config.detections.min_size = -1.0
    return config


def _image(tensors: Tensors, grouped: bool) -> ImageConfig:
    mean, std = MEAN, (57.375, 57.12, 58.395) if grouped else (1.0, 1.0, 1.0)
    if "pixel_mean" in tensors and "pixel_std" in tensors:
        b, g, r = tensors["pixel_mean"].flatten().tolist()
        mean = (b, g, r)
        b, g, r = tensors["pixel_std"].flatten().tolist()
        std = (b, g, r)
    return ImageConfig(mean=mean, std=std, channels="rgb" if mean[0] > mean[2] else "bgr", divisor=32)


def _pyramid_pairs(config: DetectorConfig) -> Pairs:
    pairs: Pairs = []
    first = 2 if config.pyramid.first_stride == 4 else 3
    for i in range(4):
        pairs.append((f"backbone.fpn_lateral{i + first}", f"pyramid.lateral.{i}"))
        pairs.append((f"backbone.fpn_output{i + first}", f"pyramid.output.{i}"))
        pairs.append((f"backbone.top_block.p{i + 6}", f"pyramid.extra_convs.{i}"))
    return pairs


def _head_pairs() -> Pairs:
    return [
        ("proposal_generator.rpn_head.conv", "rpn.convs.0"),
        ("proposal_generator.rpn_head.objectness_logits", "rpn.logits"),
        ("proposal_generator.rpn_head.anchor_deltas", "rpn.deltas"),
        ("roi_heads.box_head.fc1", "roi.fc1"),
        ("roi_heads.box_head.fc2", "roi.fc2"),
        ("roi_heads.box_predictor.cls_score", "roi.logits"),
        ("roi_heads.box_predictor.bbox_pred", "roi.deltas"),
        *((f"roi_heads.mask_head.mask_fcn{i + 1}", f"mask.convs.{i}") for i in range(4)),
        *((f"head.cls_subnet.{2 * i}", f"dense.class_convs.{i}") for i in range(4)),
        *((f"head.bbox_subnet.{2 * i}", f"dense.box_convs.{i}") for i in range(4)),
        ("head.cls_score", "dense.logits"),
        ("head.bbox_pred", "dense.deltas"),
        ("roi_heads.mask_head.deconv", "mask.deconv"),
        ("roi_heads.mask_head.predictor", "mask.logits"),
    ]


FAMILY = Family("detectron2", recognises, normalise, describe, layout)
