"""torchvision's Faster R-CNN, Mask R-CNN and RetinaNet with ResNet-50 FPN."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from torchvision.models._meta import _COCO_CATEGORIES

from libradet.errors import UserError
from libradet.interop.coco_classes import names_and_ids
from libradet.interop.family import Family, Layout, Tensors
from libradet.interop.resnet import Naming, Pairs, name_backbone, resnet_pairs
from libradet.models.config import AnchorConfig, BackboneConfig, DetectorConfig
from libradet.models.zoo import make_config

NAMING = Naming("backbone.body.")
# Names before version 0.14, and those since.
RENAMED = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),
    (r"(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2"),
    (r"(roi_heads\.mask_head)\.mask_fcn(\d)\.(weight|bias)$", lambda m: f"{m[1]}.{int(m[2]) - 1}.0.{m[3]}"),
    (
        r"(head\.(?:classification|regression)_head\.conv)\.(\d)\.(weight|bias)$",
        lambda m: f"{m[1]}.{int(m[2]) // 2}.0.{m[3]}",
    ),
)


def recognises(tensors: Tensors) -> bool:
    """Whether there are torchvision's backbone and pyramid."""
    return "backbone.body.conv1.weight" in tensors and any(n.startswith("backbone.fpn.inner_blocks.") for n in tensors)


def normalise(tensors: Tensors) -> dict[str, Tensor]:
    """Names as they are since version 0.14."""
    return {_rename(name): t for name, t in tensors.items()}


def describe(tensors: Tensors, meta: Mapping[str, Any]) -> DetectorConfig:
    """What the tensors' names and shapes say, and torchvision's own settings. Raises UserError."""
    dense = "head.classification_head.cls_logits.weight" in tensors
    if "backbone.fpn.inner_blocks.0.1.weight" in tensors or "head.classification_head.conv.0.1.weight" in tensors:
        raise UserError("one with norms in pyramid or head (a version 2), which libradet does not have yet")
    config = _describe_dense(tensors) if dense else _describe_two_stage(tensors)
    config.pyramid.channels = tensors["backbone.fpn.inner_blocks.0.0.weight"].shape[0]
    config.backbone = BackboneConfig(name_backbone(tensors, NAMING), freeze_at=2, frozen_norm=True)
    config.image.divisor = 32
    return config


def layout(tensors: Tensors | None, config: DetectorConfig) -> Layout:
    """Names as they are since version 0.14. Its RetinaNet treats background as a class like any other."""
    pairs = [*resnet_pairs(NAMING), *_pyramid_pairs(), *_head_pairs(), *_dense_pairs()]
    return Layout(pairs, background_first=config.roi is not None)


def _rename(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _describe_two_stage(tensors: Tensors) -> DetectorConfig:
    masks = "roi_heads.mask_predictor.mask_fcn_logits.weight" in tensors
    config = make_config("mask_rcnn" if masks else "faster_rcnn")
    assert config.rpn is not None
    assert config.roi is not None
    config.num_classes = tensors["roi_heads.box_predictor.cls_score.weight"].shape[0] - 1
    known = config.num_classes == len(_COCO_CATEGORIES) - 1
    config.class_names, config.category_ids = names_and_ids(config.num_classes)
    if known:
        config.class_names = tuple(_COCO_CATEGORIES[1:])
        config.category_ids = tuple(range(1, len(_COCO_CATEGORIES)))
    config.rpn.anchors = AnchorConfig(rounded=True, fitted=True)
    config.rpn.convs = sum(f"rpn.head.conv.{i}.0.weight" in tensors for i in range(9))
    config.rpn.test_proposals.min_size = 1e-3
    config.roi.width = tensors["roi_heads.box_head.fc6.weight"].shape[0]
    for stage in (config.roi, config.mask):
        if stage is not None:
            stage.align.sampling_ratio, stage.align.aligned = 2, False
    config.detections.min_size = 1e-2
    return config


def _describe_dense(tensors: Tensors) -> DetectorConfig:
    config = make_config("retinanet")
    assert config.dense is not None
    per_cell = tensors["head.regression_head.bbox_reg.weight"].shape[0] // 4
    config.num_classes = tensors["head.classification_head.cls_logits.weight"].shape[0] // per_cell
    config.class_names, config.category_ids = names_and_ids(config.num_classes)
    if config.num_classes == len(_COCO_CATEGORIES):
        config.class_names = tuple(_COCO_CATEGORIES)
        config.category_ids = tuple(range(len(_COCO_CATEGORIES)))
    a = config.dense.anchors
    config.dense.anchors = replace(a, truncated=True, rounded=True, fitted=True)
    on_c5 = tensors["backbone.fpn.extra_blocks.p6.weight"].shape[1] != 256
    config.pyramid.extra, config.pyramid.extra_relu = "conv_on_c5" if on_c5 else "conv_on_p5", True
    config.detections.min_size, config.detections.total = -1.0, 300
    return config


def _pyramid_pairs() -> Pairs:
    pairs: Pairs = []
    for i in range(4):
        pairs.append((f"backbone.fpn.inner_blocks.{i}.0", f"pyramid.lateral.{i}"))
        pairs.append((f"backbone.fpn.layer_blocks.{i}.0", f"pyramid.output.{i}"))
    return pairs


def _dense_pairs() -> Pairs:
    there, pairs = "head.{}_head.", []
    for kind, last, own, own_last in (
        ("classification", "cls_logits", "class_convs", "logits"),
        ("regression", "bbox_reg", "box_convs", "deltas"),
    ):
        pairs += [(f"{there.format(kind)}conv.{i}.0", f"dense.{own}.{i}") for i in range(4)]
        pairs.append((f"{there.format(kind)}{last}", f"dense.{own_last}"))
    return [*pairs, *((f"backbone.fpn.extra_blocks.p{i + 6}", f"pyramid.extra_convs.{i}") for i in range(2))]


def _head_pairs() -> Pairs:
    return [
        ("rpn.head.conv.0.0", "rpn.convs.0"),
        ("rpn.head.conv.1.0", "rpn.convs.1"),
        ("rpn.head.cls_logits", "rpn.logits"),
        ("rpn.head.bbox_pred", "rpn.deltas"),
        ("roi_heads.box_head.fc6", "roi.fc1"),
        ("roi_heads.box_head.fc7", "roi.fc2"),
        ("roi_heads.box_predictor.cls_score", "roi.logits"),
        ("roi_heads.box_predictor.bbox_pred", "roi.deltas"),
        *((f"roi_heads.mask_head.{i}.0", f"mask.convs.{i}") for i in range(4)),
        ("roi_heads.mask_predictor.conv5_mask", "mask.deconv"),
        ("roi_heads.mask_predictor.mask_fcn_logits", "mask.logits"),
    ]


FAMILY = Family("torchvision", recognises, normalise, describe, layout)
