"""mmdetection 1, 2 and 3, and the repository of Libra R-CNN's authors (a version 0.6)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from libradet.errors import UserError
from libradet.interop import mmdetection_config
from libradet.interop.checkpoint_format import CheckpointFormat, KeyMap, StateDictLayout, Tensors
from libradet.interop.coco_classes import class_names_and_ids
from libradet.interop.mmdetection_losses import check_equalization, check_logits
from libradet.interop.resnet import ResNetNaming, infer_backbone_name, resnet_key_map
from libradet.models.config import BackboneConfig, BalancedPyramidConfig, DetectorConfig
from libradet.models.zoo import make_config

NAMING = ResNetNaming("backbone.")
BOX_HEADS = tuple(f"roi_head.bbox_head.{stage}" for stage in ("", "0.", "1.", "2."))
# Added to the renamed tensors if the heads were not under "roi_head".
VERSION_1_MARK = "version_1"


def matches(tensors: Tensors) -> bool:
    """Return whether tensors have the names of mmdetection's pyramid and heads."""
    return any(n.startswith(("neck.lateral_convs.", "neck.0.lateral_convs.")) for n in tensors) and any(
        n.startswith(("rpn_head.rpn_", "bbox_head.", "roi_head.")) for n in tensors
    )


def normalize_keys(tensors: Tensors) -> dict[str, Tensor]:
    """Return the tensors under version 3's names: RoI heads under ``roi_head``, the head of an RPN as ``rpn_head``."""
    renamed = {}
    for name, t in tensors.items():
        first = name.split(".")[0]
        if name.startswith("bbox_head.rpn_"):
            name = name.replace("bbox_head.", "rpn_head.", 1)
        elif first in ("bbox_head", "mask_head") and not _is_retinanet(tensors):
            name = f"roi_head.{name}"
            renamed[VERSION_1_MARK] = torch.empty(0)
        renamed[name] = t
    return renamed


def infer_config(tensors: Tensors, meta: Mapping[str, Any]) -> DetectorConfig:
    """Return the configuration that names, shapes, and version and settings in ``meta`` describe.

    Raises:
        UserError: the detector is not supported.
    """
    neck = "neck.0." if _is_balanced(tensors) else "neck."
    config = make_config(_infer_model(tensors))
    _infer_pyramid(config, tensors, neck)
    config.backbone = BackboneConfig(infer_backbone_name(tensors, NAMING), freeze_at=2, frozen_norm=True)
    config.image.size_divisible = 32
    _infer_heads(config, tensors)
    if _is_version_1(tensors, meta):
        _infer_version_1(config)
    names = _read_class_names(meta)
    mmdetection_config.apply_config(config, meta)
    if config.roi is not None:
        check_equalization(tensors, config.roi, str(meta.get("cfg") or meta.get("config")))
    config.class_names, config.category_ids = class_names_and_ids(
        config.num_classes, names if len(names) == config.num_classes else ()
    )
    return config


def layout(tensors: Tensors | None, config: DetectorConfig) -> StateDictLayout:
    """Return the layout of a state dict with version 3's names."""
    neck = "neck.0." if config.pyramid.balanced else "neck."
    keys = [*resnet_key_map(NAMING), *_pyramid_keys(config, neck), *_head_keys()]
    if tensors is None and config.is_proposal_model:
        keys = [(theirs.replace("rpn_head.", "bbox_head."), ours) for theirs, ours in keys]
    return StateDictLayout(
        keys,
        ignored=(VERSION_1_MARK, *(f"{head}loss_cls." for head in BOX_HEADS)),
        background_first=tensors is not None and _background_first(tensors),
    )


def _pyramid_keys(config: DetectorConfig, neck: str) -> KeyMap:
    used = 4 if config.pyramid.start_stride == 4 else 3
    keys: KeyMap = []
    for i in range(config.pyramid.num_levels):
        keys.append((f"{neck}lateral_convs.{i}.conv", f"pyramid.lateral.{i}"))
        ours = f"output.{i}" if i < used else f"extra_convs.{i - used}"
        keys.append((f"{neck}fpn_convs.{i}.conv", f"pyramid.{ours}"))
        keys.append((f"{neck}downsample_convs.{i}.conv", f"pyramid.bottom_up.{i}"))
        keys.append((f"{neck}pafpn_convs.{i}.conv", f"pyramid.bottom_up_output.{i}"))
    for theirs, ours in (("g", "g"), ("theta", "theta"), ("phi", "phi"), ("conv_out", "out")):
        keys.append((f"neck.1.refine.{theirs}.conv", f"balance.refine.{ours}"))
    return keys


def _head_keys() -> KeyMap:
    keys = [
        ("rpn_head.rpn_conv", "rpn.convs.0"),
        ("rpn_head.rpn_cls", "rpn.logits"),
        ("rpn_head.rpn_reg", "rpn.deltas"),
    ]
    for theirs, ours in zip(BOX_HEADS, ("roi.", "roi.0.", "roi.1.", "roi.2."), strict=True):
        keys += [
            (f"{theirs}shared_fcs.0", f"{ours}fc1"),
            (f"{theirs}shared_fcs.1", f"{ours}fc2"),
            (f"{theirs}fc_cls", f"{ours}logits"),
            (f"{theirs}fc_reg", f"{ours}deltas"),
        ]
    for i in range(4):
        keys += [
            (f"roi_head.mask_head.convs.{i}.conv", f"mask.convs.{i}"),
            (f"bbox_head.cls_convs.{i}.conv", f"retinanet.class_convs.{i}"),
            (f"bbox_head.reg_convs.{i}.conv", f"retinanet.box_convs.{i}"),
        ]
    return [
        *keys,
        ("roi_head.mask_head.upsample", "mask.deconv"),
        ("roi_head.mask_head.conv_logits", "mask.logits"),
        ("bbox_head.retina_cls", "retinanet.logits"),
        ("bbox_head.retina_reg", "retinanet.deltas"),
    ]


def _infer_pyramid(config: DetectorConfig, tensors: Tensors, neck: str) -> None:
    pyramid = config.pyramid
    pyramid.channels = tensors[f"{neck}lateral_convs.0.conv.weight"].shape[0]
    laterals = sum(f"{neck}lateral_convs.{i}.conv.weight" in tensors for i in range(9))
    outputs = sum(f"{neck}fpn_convs.{i}.conv.weight" in tensors for i in range(9))
    if laterals != (4 if pyramid.start_stride == 4 else 3):
        raise UserError(f"its pyramid has {laterals} lateral convolutions, unlike that of {config.model}")
    pyramid.type = "pafpn" if f"{neck}pafpn_convs.0.conv.weight" in tensors else "fpn"
    if outputs > laterals:
        pyramid.num_levels = outputs
        wide = tensors[f"{neck}fpn_convs.{laterals}.conv.weight"].shape[1] != pyramid.channels
        pyramid.extra_levels = "conv_on_c5" if wide else "conv_on_p5"
    if _is_balanced(tensors):
        if any(n.startswith("neck.1.refine.conv.") for n in tensors):
            raise UserError("the refinement of its balanced pyramid is a convolution with ReLU, which is not supported")
        refine = "non_local" if "neck.1.refine.g.conv.weight" in tensors else "none"
        pyramid.balanced = BalancedPyramidConfig(1 if pyramid.start_stride == 8 else 2, refine)
    else:
        pyramid.balanced = None


def _infer_heads(config: DetectorConfig, tensors: Tensors) -> None:
    if config.roi is not None:
        head = _first_head(tensors)
        check_logits(tensors, head)
        config.num_classes = tensors[f"{head}fc_cls.weight"].shape[0] - 1
        config.roi.fc_dim = tensors[f"{head}shared_fcs.0.weight"].shape[0]
        config.roi.class_agnostic = tensors[f"{head}fc_reg.weight"].shape[0] == 4
        # The box head, unlike the RPN, keeps boxes without area.
        config.detections.min_size = -1.0
    if config.retinanet is not None:
        num_anchors = tensors["bbox_head.retina_reg.weight"].shape[0] // 4
        config.num_classes = tensors["bbox_head.retina_cls.weight"].shape[0] // num_anchors
        config.retinanet.topk_by = "scores"
    if config.rpn is not None:
        # mmdetection's Cascade R-CNN keeps more proposals, and ignores anchors that cross the image border.
        config.rpn.train_proposals.post_nms_top_n = 1000 if config.cascade is None else 2000
        config.rpn.allowed_border = None if config.cascade is None else 0.0
        config.rpn.test_proposals.pre_nms_top_n = 2000 if config.is_proposal_model else 1000
        config.rpn.train_proposals.topk_by = config.rpn.test_proposals.topk_by = "scores"
    for stage in (config.roi, config.mask):
        if stage is not None:
            stage.align.sampling_ratio, stage.align.aligned = 0, True


def _infer_version_1(config: DetectorConfig) -> None:
    # In version 1, x2 and y2 are the last pixel of a box; in ours they are its end. In our convention, its anchors
    # lie on cell centers and have integer corners, and everything else is equal.
    for head in (config.rpn, config.retinanet):
        if head is not None:
            head.anchors = replace(head.anchors, offset=0.5, rounded=True)
    for stage in (config.roi, config.mask):
        if stage is not None:
            stage.align.sampling_ratio, stage.align.aligned = 2, False


def _infer_model(tensors: Tensors) -> str:
    libra = "libra_" if _is_balanced(tensors) else ""
    if _is_retinanet(tensors):
        return f"{libra}retinanet"
    if "roi_head.bbox_head.0.fc_cls.weight" in tensors:
        if any(n.startswith("roi_head.mask_head.0.") for n in tensors):
            raise UserError("it has a mask head for each stage of its cascade, which is not supported")
        return f"{libra}cascade_rcnn"
    if "roi_head.mask_head.conv_logits.weight" in tensors:
        return f"{libra}mask_rcnn"
    if "roi_head.bbox_head.fc_cls.weight" not in tensors:
        return f"{libra}rpn"
    return f"{libra}{'faster_rcnn' if any(n.startswith('rpn_head.') for n in tensors) else 'fast_rcnn'}"


def _is_balanced(tensors: Tensors) -> bool:
    # The necks are a list of FPN and BFP.
    return "neck.0.lateral_convs.0.conv.weight" in tensors


def _is_retinanet(tensors: Tensors) -> bool:
    return "bbox_head.retina_cls.weight" in tensors


def _first_head(tensors: Tensors) -> str:
    return "roi_head.bbox_head.0." if "roi_head.bbox_head.0.fc_cls.weight" in tensors else "roi_head.bbox_head."


def _background_first(tensors: Tensors) -> bool:
    # Version 1 has deltas for background, too. If boxes are class-agnostic, only its names differ.
    head = _first_head(tensors)
    if f"{head}fc_cls.weight" not in tensors:
        return False
    classes, deltas = tensors[f"{head}fc_cls.weight"].shape[0], tensors[f"{head}fc_reg.weight"].shape[0]
    return deltas == 4 * classes or (deltas == 4 and VERSION_1_MARK in tensors)


def _is_version_1(tensors: Tensors, meta: Mapping[str, Any]) -> bool:
    if _background_first(tensors):
        return True
    # Files that were published with version 2.0, but trained before its release, say 1.x: their settings are 2.0's.
    text = str(meta.get("cfg") or meta.get("config"))
    has_newer_settings = "anchor_generator" in text or "roi_head" in text
    return str(meta.get("mmdet_version", "")).startswith(("0.", "1.")) and not has_newer_settings


def _read_class_names(meta: Mapping[str, Any]) -> tuple[str, ...]:
    described = meta.get("dataset_meta")
    for place in (described if isinstance(described, dict) else {}, meta):
        for key in ("classes", "CLASSES"):
            if isinstance(place.get(key), list | tuple):
                return tuple(str(name) for name in place[key])
    return ()


FORMAT = CheckpointFormat("mmdetection", matches, normalize_keys, infer_config, layout)
