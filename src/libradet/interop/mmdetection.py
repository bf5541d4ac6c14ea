"""mmdetection 1, 2 and 3, and the repository of Libra R-CNN's authors (a version 0.6)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from libradet.errors import UserError
from libradet.interop import mmdetection_settings
from libradet.interop.coco_classes import names_and_ids
from libradet.interop.family import Family, Layout, Tensors
from libradet.interop.resnet import Naming, Pairs, name_backbone, resnet_pairs
from libradet.models.config import BackboneConfig, BalancedPyramidConfig, DetectorConfig
from libradet.models.zoo import make_config

NAMING = Naming("backbone.")
# A mark among the normalized tensors that the second stage was not under "roi_head".
VERSION_1 = "version_1"


def recognizes(tensors: Tensors) -> bool:
    """Whether there are mmdetection's pyramid and head."""
    return any(n.startswith(("neck.lateral_convs.", "neck.0.lateral_convs.")) for n in tensors) and any(
        n.startswith(("rpn_head.rpn_", "bbox_head.", "roi_head.")) for n in tensors
    )


def normalize(tensors: Tensors) -> dict[str, Tensor]:
    """The layout of version 3: second stage under ``roi_head``, an RPN alone as ``rpn_head`` as well."""
    renamed = {}
    for name, t in tensors.items():
        first = name.split(".")[0]
        if name.startswith("bbox_head.rpn_"):
            name = name.replace("bbox_head.", "rpn_head.", 1)
        elif first in ("bbox_head", "mask_head") and not _is_dense(tensors):
            name = f"roi_head.{name}"
            renamed[VERSION_1] = torch.empty(0)
        renamed[name] = t
    return renamed


def describe(tensors: Tensors, meta: Mapping[str, Any]) -> DetectorConfig:
    """What the tensors' names and shapes, the version and the settings in ``meta`` say. Raises UserError."""
    neck = "neck.0." if _balanced(tensors) else "neck."
    config = make_config(_model(tensors))
    _describe_pyramid(config, tensors, neck)
    config.backbone = BackboneConfig(name_backbone(tensors, NAMING), freeze_at=2, frozen_norm=True)
    config.image.divisor = 32
    _describe_heads(config, tensors)
    if _is_version_1(tensors, meta):
        _describe_version_1(config)
    names = _class_names(meta)
    mmdetection_settings.apply(config, meta)
    config.class_names, config.category_ids = names_and_ids(
        config.num_classes, names if len(names) == config.num_classes else ()
    )
    return config


def layout(tensors: Tensors | None, config: DetectorConfig) -> Layout:
    """Names of version 3."""
    neck = "neck.0." if config.pyramid.balanced else "neck."
    pairs = [*resnet_pairs(NAMING), *_pyramid_pairs(config, neck), *_head_pairs()]
    if tensors is None and config.proposes:
        pairs = [(there.replace("rpn_head.", "bbox_head."), here) for there, here in pairs]
    return Layout(pairs, ignored=(VERSION_1,), background_first=tensors is not None and _background_first(tensors))


def _pyramid_pairs(config: DetectorConfig, neck: str) -> Pairs:
    used = 4 if config.pyramid.first_stride == 4 else 3
    pairs: Pairs = []
    for i in range(config.pyramid.levels):
        pairs.append((f"{neck}lateral_convs.{i}.conv", f"pyramid.lateral.{i}"))
        here = f"output.{i}" if i < used else f"extra_convs.{i - used}"
        pairs.append((f"{neck}fpn_convs.{i}.conv", f"pyramid.{here}"))
        pairs.append((f"{neck}downsample_convs.{i}.conv", f"pyramid.bottom_up.{i}"))
        pairs.append((f"{neck}pafpn_convs.{i}.conv", f"pyramid.bottom_up_output.{i}"))
    for there, here in (("g", "g"), ("theta", "theta"), ("phi", "phi"), ("conv_out", "out")):
        pairs.append((f"neck.1.refine.{there}.conv", f"balance.refine.{here}"))
    return pairs


def _head_pairs() -> Pairs:
    pairs = [
        ("rpn_head.rpn_conv", "rpn.convs.0"),
        ("rpn_head.rpn_cls", "rpn.logits"),
        ("rpn_head.rpn_reg", "rpn.deltas"),
    ]
    for stage in ("", "0.", "1.", "2."):
        there, here = f"roi_head.bbox_head.{stage}", f"roi.{stage}"
        pairs += [
            (f"{there}shared_fcs.0", f"{here}fc1"),
            (f"{there}shared_fcs.1", f"{here}fc2"),
            (f"{there}fc_cls", f"{here}logits"),
            (f"{there}fc_reg", f"{here}deltas"),
        ]
    for i in range(4):
        pairs += [
            (f"roi_head.mask_head.convs.{i}.conv", f"mask.convs.{i}"),
            (f"bbox_head.cls_convs.{i}.conv", f"dense.class_convs.{i}"),
            (f"bbox_head.reg_convs.{i}.conv", f"dense.box_convs.{i}"),
        ]
    return [
        *pairs,
        ("roi_head.mask_head.upsample", "mask.deconv"),
        ("roi_head.mask_head.conv_logits", "mask.logits"),
        ("bbox_head.retina_cls", "dense.logits"),
        ("bbox_head.retina_reg", "dense.deltas"),
    ]


def _describe_pyramid(config: DetectorConfig, tensors: Tensors, neck: str) -> None:
    pyramid = config.pyramid
    pyramid.channels = tensors[f"{neck}lateral_convs.0.conv.weight"].shape[0]
    laterals = sum(f"{neck}lateral_convs.{i}.conv.weight" in tensors for i in range(9))
    outputs = sum(f"{neck}fpn_convs.{i}.conv.weight" in tensors for i in range(9))
    if laterals != (4 if pyramid.first_stride == 4 else 3):
        raise UserError(f"its pyramid starts at another level than that of {config.model}: {laterals} laterals")
    pyramid.kind = "pafpn" if f"{neck}pafpn_convs.0.conv.weight" in tensors else "fpn"
    if outputs > laterals:
        pyramid.levels = outputs
        wide = tensors[f"{neck}fpn_convs.{laterals}.conv.weight"].shape[1] != pyramid.channels
        pyramid.extra = "conv_on_c5" if wide else "conv_on_p5"
    if _balanced(tensors):
        if any(n.startswith("neck.1.refine.conv.") for n in tensors):
            raise UserError("its balanced pyramid is refined by a convolution with a ReLU, which libradet's is not")
        refine = "non_local" if "neck.1.refine.g.conv.weight" in tensors else "none"
        pyramid.balanced = BalancedPyramidConfig(1 if pyramid.first_stride == 8 else 2, refine)
    else:
        pyramid.balanced = None


def _describe_heads(config: DetectorConfig, tensors: Tensors) -> None:
    if config.roi is not None:
        head = _first_head(tensors)
        config.num_classes = tensors[f"{head}fc_cls.weight"].shape[0] - 1
        config.roi.width = tensors[f"{head}shared_fcs.0.weight"].shape[0]
        config.roi.class_agnostic = tensors[f"{head}fc_reg.weight"].shape[0] == 4
        # The second stage, and it alone, keeps boxes without area.
        config.detections.min_size = -1.0
    if config.dense is not None:
        per_cell = tensors["bbox_head.retina_reg.weight"].shape[0] // 4
        config.num_classes = tensors["bbox_head.retina_cls.weight"].shape[0] // per_cell
        config.dense.rank = "scores"
    if config.rpn is not None:
        # Its Cascade R-CNN keeps more, and leaves out anchors that cross the border.
        config.rpn.train_proposals.total = 1000 if config.cascade is None else 2000
        config.rpn.allowed_border = None if config.cascade is None else 0.0
        config.rpn.test_proposals.per_level = 2000 if config.proposes else 1000
        config.rpn.train_proposals.rank = config.rpn.test_proposals.rank = "scores"
    for stage in (config.roi, config.mask):
        if stage is not None:
            stage.align.sampling_ratio, stage.align.aligned = 0, True


def _describe_version_1(config: DetectorConfig) -> None:
    # There, x2 and y2 were the last pixel of a box; here they are the end of it. In these terms its anchors
    # lie on cell centers and have whole corners, and all else is as it is here.
    for head in (config.rpn, config.dense):
        if head is not None:
            head.anchors = replace(head.anchors, offset=0.5, rounded=True)
    for stage in (config.roi, config.mask):
        if stage is not None:
            stage.align.sampling_ratio, stage.align.aligned = 2, False


def _model(tensors: Tensors) -> str:
    libra = "libra_" if _balanced(tensors) else ""
    if _is_dense(tensors):
        return f"{libra}retinanet"
    if "roi_head.bbox_head.0.fc_cls.weight" in tensors:
        if any(n.startswith("roi_head.mask_head.0.") for n in tensors):
            raise UserError("it has a mask head for each stage of its cascade, which libradet does not offer")
        return f"{libra}cascade_rcnn"
    if "roi_head.mask_head.conv_logits.weight" in tensors:
        return f"{libra}mask_rcnn"
    if "roi_head.bbox_head.fc_cls.weight" not in tensors:
        return f"{libra}rpn"
    return f"{libra}{'faster_rcnn' if any(n.startswith('rpn_head.') for n in tensors) else 'fast_rcnn'}"


def _balanced(tensors: Tensors) -> bool:
    # BFP comes behind the FPN in a list of necks.
    return "neck.0.lateral_convs.0.conv.weight" in tensors


def _is_dense(tensors: Tensors) -> bool:
    return "bbox_head.retina_cls.weight" in tensors


def _first_head(tensors: Tensors) -> str:
    return "roi_head.bbox_head.0." if "roi_head.bbox_head.0.fc_cls.weight" in tensors else "roi_head.bbox_head."


def _background_first(tensors: Tensors) -> bool:
    # Version 1 has deltas or masks for background too. Where there are neither, only its names tell.
    head = _first_head(tensors)
    if f"{head}fc_cls.weight" not in tensors:
        return False
    classes, deltas = tensors[f"{head}fc_cls.weight"].shape[0], tensors[f"{head}fc_reg.weight"].shape[0]
    return deltas == 4 * classes or (deltas == 4 and VERSION_1 in tensors)


def _is_version_1(tensors: Tensors, meta: Mapping[str, Any]) -> bool:
    version = str(meta.get("mmdet_version", ""))
    return version.startswith(("0.", "1.")) or _background_first(tensors)


def _class_names(meta: Mapping[str, Any]) -> tuple[str, ...]:
    described = meta.get("dataset_meta")
    for place in (described if isinstance(described, dict) else {}, meta):
        for key in ("classes", "CLASSES"):
            if isinstance(place.get(key), list | tuple):
                return tuple(str(name) for name in place[key])
    return ()


FAMILY = Family("mmdetection", recognizes, normalize, describe, layout)
