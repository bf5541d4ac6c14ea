"""torchvision's Faster R-CNN, Mask R-CNN and RetinaNet with ResNet-50 FPN, versions 1 and 2.

Its published weights of version 1 come from a time when frozen batch norms added nothing to the variance, and
torchvision therefore sets that epsilon to 0 when it loads them itself. A file does not say so. Here, frozen norms
and COCO's 91 classes together stand for the published weights; every other file is read as torchvision reads a
user's own, with 1e-5. ``norm_eps`` of :func:`libradet.interop.loading.load_checkpoint` decides otherwise, for
instance for a model that was fine-tuned from the published weights on other classes.

Models that :func:`libradet.interop.torchvision.balance` has balanced are the zoo's Libra models, in and out.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from torchvision.models._meta import _COCO_CATEGORIES

from libradet.interop.coco_classes import names_and_ids
from libradet.interop.family import Family, Layout, Tensors
from libradet.interop.norms import conv_pairs, which_norm
from libradet.interop.resnet import Naming, Pairs, name_backbone, resnet_pairs
from libradet.models.config import AnchorConfig, BackboneConfig, BoxLossConfig, DetectorConfig
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


def recognizes(tensors: Tensors) -> bool:
    """Whether there are torchvision's backbone and pyramid."""
    return "backbone.body.conv1.weight" in tensors and any(n.startswith("backbone.fpn.inner_blocks.") for n in tensors)


def normalize(tensors: Tensors) -> dict[str, Tensor]:
    """Names as they are since version 0.14."""
    return {_rename(name): t for name, t in tensors.items()}


def describe(tensors: Tensors, meta: Mapping[str, Any]) -> DetectorConfig:
    """What the tensors' names and shapes say, and torchvision's own settings. Raises UserError."""
    dense = "head.classification_head.cls_logits.weight" in tensors
    config = _describe_dense(tensors) if dense else _describe_two_stage(tensors)
    config.pyramid.channels = tensors["backbone.fpn.inner_blocks.0.0.weight"].shape[0]
    config.pyramid.norm = which_norm(tensors, "backbone.fpn.inner_blocks.0.1")
    # A frozen norm does not count batches.
    frozen = "backbone.body.bn1.num_batches_tracked" not in tensors
    config.backbone = BackboneConfig(name_backbone(tensors, NAMING), freeze_at=2, frozen_norm=frozen)
    if frozen and config.class_names[-90:] == tuple(_COCO_CATEGORIES[1:]):
        config.backbone.norm_eps = 0.0
    config.image.divisor = 32
    return config


def layout(tensors: Tensors | None, config: DetectorConfig) -> Layout:
    """Names as they are since version 0.14. Its RetinaNet treats background as a class like any other."""
    pairs = [*resnet_pairs(NAMING), *_pyramid_pairs(config), *_rpn_pairs(config), *_dense_pairs(config)]
    pairs += [*_box_pairs(config), *_mask_pairs(config)]
    pairs += [(f"backbone.{own}", own) for own in (f"balance.refine.{part}" for part in ("g", "theta", "phi", "out"))]
    return Layout(pairs, background_first=config.roi is not None)


def _balanced(tensors: Tensors) -> bool:
    return any(name.startswith("backbone.balance.") for name in tensors)


def _rename(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _describe_two_stage(tensors: Tensors) -> DetectorConfig:
    masks = "roi_heads.mask_predictor.mask_fcn_logits.weight" in tensors
    libra = "libra_" if _balanced(tensors) else ""
    config = make_config(f"{libra}{'mask_rcnn' if masks else 'faster_rcnn'}")
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
    config.roi.width = tensors["roi_heads.box_predictor.cls_score.weight"].shape[1]
    if "roi_heads.box_head.fc6.weight" not in tensors:
        config.roi.convs = sum(f"roi_heads.box_head.{i}.0.weight" in tensors for i in range(9))
        config.roi.norm = which_norm(tensors, "roi_heads.box_head.0.1")
        config.roi.fcs = sum(f"roi_heads.box_head.{i}.weight" in tensors for i in range(99))
    if config.mask is not None:
        config.mask.convs = sum(f"roi_heads.mask_head.{i}.0.weight" in tensors for i in range(9))
        config.mask.norm = which_norm(tensors, "roi_heads.mask_head.0.1")
    for stage in (config.roi, config.mask):
        if stage is not None:
            stage.align.sampling_ratio, stage.align.aligned = 2, False
    config.detections.min_size = 1e-2
    return config


def _describe_dense(tensors: Tensors) -> DetectorConfig:
    config = make_config("libra_retinanet" if _balanced(tensors) else "retinanet")
    assert config.dense is not None
    per_cell = tensors["head.regression_head.bbox_reg.weight"].shape[0] // 4
    config.num_classes = tensors["head.classification_head.cls_logits.weight"].shape[0] // per_cell
    config.class_names, config.category_ids = names_and_ids(config.num_classes)
    if config.num_classes == len(_COCO_CATEGORIES):
        config.class_names = tuple(_COCO_CATEGORIES)
        config.category_ids = tuple(range(len(_COCO_CATEGORIES)))
    config.dense.anchors = replace(config.dense.anchors, truncated=True, rounded=True, fitted=True)
    config.dense.norm = which_norm(tensors, "head.classification_head.conv.0.1")
    extra = tensors["backbone.fpn.extra_blocks.p6.weight"]
    config.pyramid.extra = "conv_on_p5" if extra.shape[0] == extra.shape[1] else "conv_on_c5"
    config.pyramid.extra_relu = True
    if config.dense.norm == "group" and not _balanced(tensors):
        # What its version 2 is trained with.
        config.dense.box_loss = BoxLossConfig(kind="giou")
    config.detections.min_size, config.detections.total = -1.0, 300
    return config


def _pyramid_pairs(config: DetectorConfig) -> Pairs:
    pairs: Pairs = []
    for i in range(4):
        for there, here in (("inner", "lateral"), ("layer", "output")):
            block = f"backbone.fpn.{there}_blocks.{i}"
            pairs += conv_pairs(f"{block}.0", f"{block}.1", f"pyramid.{here}.{i}", config.pyramid.norm)
    return [*pairs, *((f"backbone.fpn.extra_blocks.p{i + 6}", f"pyramid.extra_convs.{i}") for i in range(2))]


def _rpn_pairs(config: DetectorConfig) -> Pairs:
    convs = config.rpn.convs if config.rpn else 0
    pairs = [(f"rpn.head.conv.{i}.0", f"rpn.convs.{i}") for i in range(convs)]
    return [*pairs, ("rpn.head.cls_logits", "rpn.logits"), ("rpn.head.bbox_pred", "rpn.deltas")]


def _dense_pairs(config: DetectorConfig) -> Pairs:
    if config.dense is None:
        return []
    pairs: Pairs = []
    for there, last, own, own_last in (
        ("head.classification_head.", "cls_logits", "class_convs", "logits"),
        ("head.regression_head.", "bbox_reg", "box_convs", "deltas"),
    ):
        for i in range(config.dense.convs):
            block = f"{there}conv.{i}"
            pairs += conv_pairs(f"{block}.0", f"{block}.1", f"dense.{own}.{i}", config.dense.norm)
        pairs.append((f"{there}{last}", f"dense.{own_last}"))
    return pairs


def _box_pairs(config: DetectorConfig) -> Pairs:
    if config.roi is None:
        return []
    convs, pairs = config.roi.convs, []
    for i in range(convs):
        block = f"roi_heads.box_head.{i}"
        pairs += conv_pairs(f"{block}.0", f"{block}.1", f"roi.convs.{i}", config.roi.norm)
    for i in range(config.roi.fcs):
        # Without convolutions they have names; else they are items of a list, behind a flattening, with ReLUs between.
        there = f"{convs + 1 + 2 * i}" if convs else f"fc{i + 6}"
        pairs.append((f"roi_heads.box_head.{there}", f"roi.fc{i + 1}"))
    predictor = "roi_heads.box_predictor."
    return [*pairs, (f"{predictor}cls_score", "roi.logits"), (f"{predictor}bbox_pred", "roi.deltas")]


def _mask_pairs(config: DetectorConfig) -> Pairs:
    if config.mask is None:
        return []
    pairs: Pairs = []
    for i in range(config.mask.convs):
        block = f"roi_heads.mask_head.{i}"
        pairs += conv_pairs(f"{block}.0", f"{block}.1", f"mask.convs.{i}", config.mask.norm)
    predictor = "roi_heads.mask_predictor."
    return [*pairs, (f"{predictor}conv5_mask", "mask.deconv"), (f"{predictor}mask_fcn_logits", "mask.logits")]


FAMILY = Family("torchvision", recognizes, normalize, describe, layout)
