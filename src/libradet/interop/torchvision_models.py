"""torchvision's Faster R-CNN, Mask R-CNN and RetinaNet with ResNet-50 FPN, versions 1 and 2; those on MobileNetV3.

The published weights of version 1 were trained with frozen batch norms without epsilon, and torchvision sets their
epsilon to 0 when it loads them. A file does not contain this. A file with frozen norms and COCO's 91 classes is
assumed to hold published weights; every other file is read with 1e-5, as torchvision reads a user's own.
``norm_eps`` of :func:`libradet.interop.loading.load_checkpoint` overrides the rule, for instance for a model that was
fine-tuned from the published weights on other classes.

Faster R-CNN on MobileNetV3-Large FPN is published at two image sizes, which a file does not contain either: the
metadata of published weights names torchvision's function, and every other file is read with the larger size.

Models that :func:`libradet.interop.torchvision.balance` has balanced correspond to the zoo's Libra models.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from torchvision.models._meta import _COCO_CATEGORIES

from libradet.errors import UserError
from libradet.interop.checkpoint_format import (
    CheckpointFormat,
    KeyMap,
    StateDictLayout,
    Tensors,
    conv_key_map,
    infer_norm,
)
from libradet.interop.coco_classes import class_names_and_ids
from libradet.interop.coco_weights import BUILDER
from libradet.interop.mobilenet import NAME, check_mobilenet, has_mobilenet, mobilenet_key_map
from libradet.interop.resnet import ResNetNaming, infer_backbone_name, resnet_key_map
from libradet.models.config import AnchorConfig, BackboneConfig, BoxLossConfig, DetectorConfig
from libradet.models.zoo import make_config

NAMING = ResNetNaming("backbone.body.")
# Patterns of names before version 0.14, and their replacements.
RENAMED = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),
    (r"(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2"),
    (r"(roi_heads\.mask_head)\.mask_fcn(\d)\.(weight|bias)$", lambda m: f"{m[1]}.{int(m[2]) - 1}.0.{m[3]}"),
    (
        r"(head\.(?:classification|regression)_head\.conv)\.(\d)\.(weight|bias)$",
        lambda m: f"{m[1]}.{int(m[2]) // 2}.0.{m[3]}",
    ),
)


def matches(tensors: Tensors) -> bool:
    """Return whether tensors have the names of torchvision's backbone and pyramid."""
    has_body = "backbone.body.conv1.weight" in tensors or has_mobilenet(tensors)
    return has_body and any(n.startswith("backbone.fpn.inner_blocks.") for n in tensors)


def normalize_keys(tensors: Tensors) -> dict[str, Tensor]:
    """Return the tensors under the names used since version 0.14."""
    return {_rename(name): t for name, t in tensors.items()}


def infer_config(tensors: Tensors, meta: Mapping[str, Any]) -> DetectorConfig:
    """Return the configuration that names and shapes describe, with torchvision's default settings.

    Raises:
        UserError: the detector is not supported.
    """
    is_retinanet = "head.classification_head.cls_logits.weight" in tensors
    config = _infer_retinanet(tensors) if is_retinanet else _infer_two_stage(tensors)
    config.pyramid.channels = tensors["backbone.fpn.inner_blocks.0.0.weight"].shape[0]
    config.pyramid.norm = infer_norm(tensors, "backbone.fpn.inner_blocks.0.1")
    config.image.size_divisible = 32
    if has_mobilenet(tensors):
        _set_mobilenet(config, tensors, meta)
        return config
    # Frozen norms do not count batches.
    frozen = "backbone.body.bn1.num_batches_tracked" not in tensors
    config.backbone = BackboneConfig(infer_backbone_name(tensors, NAMING), freeze_at=2, frozen_norm=frozen)
    if frozen and config.class_names[-90:] == tuple(_COCO_CATEGORIES[1:]):
        config.backbone.norm_eps = 0.0
    return config


def _set_mobilenet(config: DetectorConfig, tensors: Tensors, meta: Mapping[str, Any]) -> None:
    """Set what torchvision's Faster R-CNN on MobileNetV3-Large has of its own."""
    check_mobilenet(tensors)
    if config.rpn is None or config.roi is None:
        raise UserError("its RetinaNet is on a MobileNet; only Faster R-CNN and Mask R-CNN are supported on it")
    frozen = "backbone.body.0.1.num_batches_tracked" not in tensors
    config.backbone = BackboneConfig(NAME, freeze_at=3, frozen_norm=frozen, features="stride_32")
    config.pyramid.start_stride, config.pyramid.num_levels = 32, 3
    if config.pyramid.balanced is not None:
        config.pyramid.balanced.level = 1
    config.rpn.anchors.sizes = (32, 64, 128, 256, 512)
    config.rpn.train_proposals.score_thresh = config.rpn.test_proposals.score_thresh = 0.05
    # torchvision derives the levels of boxes from the strides, so the second one of stride 32 gets none.
    for head in (config.roi, config.mask):
        if head is not None:
            head.align.num_levels = 1
    if meta.get(BUILDER) == "fasterrcnn_mobilenet_v3_large_320_fpn":
        config.image.size = (320, 640)
        config.rpn.test_proposals.pre_nms_top_n = config.rpn.test_proposals.post_nms_top_n = 150


def layout(tensors: Tensors | None, config: DetectorConfig) -> StateDictLayout:
    """Return the layout of a state dict since version 0.14. Its RetinaNet treats background as an ordinary class."""
    # On the features of the zoo's own detectors, torchvision has no MobileNet.
    is_mobilenet = config.backbone.name == NAME and config.backbone.features == "stride_32"
    body_keys = mobilenet_key_map() if is_mobilenet else resnet_key_map(NAMING)
    keys = [*body_keys, *_pyramid_keys(config), *_rpn_keys(config), *_retinanet_keys(config)]
    keys += [*_box_keys(config), *_mask_keys(config)]
    keys += [(f"backbone.{own}", own) for own in (f"balance.refine.{part}" for part in ("g", "theta", "phi", "out"))]
    return StateDictLayout(keys, background_first=config.roi is not None)


def _is_balanced(tensors: Tensors) -> bool:
    return any(name.startswith("backbone.balance.") for name in tensors)


def _rename(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _infer_two_stage(tensors: Tensors) -> DetectorConfig:
    masks = "roi_heads.mask_predictor.mask_fcn_logits.weight" in tensors
    libra = "libra_" if _is_balanced(tensors) else ""
    config = make_config(f"{libra}{'mask_rcnn' if masks else 'faster_rcnn'}")
    assert config.rpn is not None
    assert config.roi is not None
    config.num_classes = tensors["roi_heads.box_predictor.cls_score.weight"].shape[0] - 1
    known = config.num_classes == len(_COCO_CATEGORIES) - 1
    config.class_names, config.category_ids = class_names_and_ids(config.num_classes)
    if known:
        config.class_names = tuple(_COCO_CATEGORIES[1:])
        config.category_ids = tuple(range(1, len(_COCO_CATEGORIES)))
    config.rpn.anchors = AnchorConfig(rounded=True, fitted=True)
    config.rpn.num_convs = sum(f"rpn.head.conv.{i}.0.weight" in tensors for i in range(9))
    config.rpn.test_proposals.min_size = 1e-3
    config.roi.fc_dim = tensors["roi_heads.box_predictor.cls_score.weight"].shape[1]
    if "roi_heads.box_head.fc6.weight" not in tensors:
        config.roi.num_convs = sum(f"roi_heads.box_head.{i}.0.weight" in tensors for i in range(9))
        config.roi.norm = infer_norm(tensors, "roi_heads.box_head.0.1")
        config.roi.num_fcs = sum(f"roi_heads.box_head.{i}.weight" in tensors for i in range(99))
    if config.mask is not None:
        config.mask.num_convs = sum(f"roi_heads.mask_head.{i}.0.weight" in tensors for i in range(9))
        config.mask.norm = infer_norm(tensors, "roi_heads.mask_head.0.1")
    for stage in (config.roi, config.mask):
        if stage is not None:
            stage.align.sampling_ratio, stage.align.aligned = 2, False
    config.detections.min_size = 1e-2
    return config


def _infer_retinanet(tensors: Tensors) -> DetectorConfig:
    config = make_config("libra_retinanet" if _is_balanced(tensors) else "retinanet")
    assert config.retinanet is not None
    num_anchors = tensors["head.regression_head.bbox_reg.weight"].shape[0] // 4
    config.num_classes = tensors["head.classification_head.cls_logits.weight"].shape[0] // num_anchors
    config.class_names, config.category_ids = class_names_and_ids(config.num_classes)
    if config.num_classes == len(_COCO_CATEGORIES):
        config.class_names = tuple(_COCO_CATEGORIES)
        config.category_ids = tuple(range(len(_COCO_CATEGORIES)))
    config.retinanet.anchors = replace(config.retinanet.anchors, truncated=True, rounded=True, fitted=True)
    config.retinanet.norm = infer_norm(tensors, "head.classification_head.conv.0.1")
    extra = tensors["backbone.fpn.extra_blocks.p6.weight"]
    config.pyramid.extra_levels = "conv_on_p5" if extra.shape[0] == extra.shape[1] else "conv_on_c5"
    config.pyramid.extra_relu = True
    if config.retinanet.norm == "group" and not _is_balanced(tensors):
        # Version 2 is trained with it.
        config.retinanet.box_loss = BoxLossConfig(type="giou")
    config.detections.min_size, config.detections.detections_per_img = -1.0, 300
    return config


def _pyramid_keys(config: DetectorConfig) -> KeyMap:
    keys: KeyMap = []
    for i in range(4):
        for theirs, ours in (("inner", "lateral"), ("layer", "output")):
            block = f"backbone.fpn.{theirs}_blocks.{i}"
            keys += conv_key_map(f"{block}.0", f"{block}.1", f"pyramid.{ours}.{i}", config.pyramid.norm)
    return [*keys, *((f"backbone.fpn.extra_blocks.p{i + 6}", f"pyramid.extra_convs.{i}") for i in range(2))]


def _rpn_keys(config: DetectorConfig) -> KeyMap:
    convs = config.rpn.num_convs if config.rpn else 0
    keys = [(f"rpn.head.conv.{i}.0", f"rpn.convs.{i}") for i in range(convs)]
    return [*keys, ("rpn.head.cls_logits", "rpn.logits"), ("rpn.head.bbox_pred", "rpn.deltas")]


def _retinanet_keys(config: DetectorConfig) -> KeyMap:
    if config.retinanet is None:
        return []
    keys: KeyMap = []
    for theirs, last, own, own_last in (
        ("head.classification_head.", "cls_logits", "class_convs", "logits"),
        ("head.regression_head.", "bbox_reg", "box_convs", "deltas"),
    ):
        for i in range(config.retinanet.num_convs):
            block = f"{theirs}conv.{i}"
            keys += conv_key_map(f"{block}.0", f"{block}.1", f"retinanet.{own}.{i}", config.retinanet.norm)
        keys.append((f"{theirs}{last}", f"retinanet.{own_last}"))
    return keys


def _box_keys(config: DetectorConfig) -> KeyMap:
    if config.roi is None:
        return []
    convs, keys = config.roi.num_convs, []
    for i in range(convs):
        block = f"roi_heads.box_head.{i}"
        keys += conv_key_map(f"{block}.0", f"{block}.1", f"roi.convs.{i}", config.roi.norm)
    for i in range(config.roi.num_fcs):
        # Without convolutions they have names; otherwise they are modules of a sequence, after flattening, with ReLUs.
        theirs = f"{convs + 1 + 2 * i}" if convs else f"fc{i + 6}"
        keys.append((f"roi_heads.box_head.{theirs}", f"roi.fc{i + 1}"))
    predictor = "roi_heads.box_predictor."
    return [*keys, (f"{predictor}cls_score", "roi.logits"), (f"{predictor}bbox_pred", "roi.deltas")]


def _mask_keys(config: DetectorConfig) -> KeyMap:
    if config.mask is None:
        return []
    keys: KeyMap = []
    for i in range(config.mask.num_convs):
        block = f"roi_heads.mask_head.{i}"
        keys += conv_key_map(f"{block}.0", f"{block}.1", f"mask.convs.{i}", config.mask.norm)
    predictor = "roi_heads.mask_predictor."
    return [*keys, (f"{predictor}conv5_mask", "mask.deconv"), (f"{predictor}mask_fcn_logits", "mask.logits")]


FORMAT = CheckpointFormat("torchvision", matches, normalize_keys, infer_config, layout)
