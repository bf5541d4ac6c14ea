"""detectron2's Faster, Mask and Cascade R-CNN, RPN and RetinaNet with FPN: .pkl of its zoo, .pth of its trainer."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from libradet.interop.coco_classes import names_and_ids
from libradet.interop.family import Family, Layout, Tensors
from libradet.interop.norms import conv_pairs, which_norm
from libradet.interop.resnet import Naming, Pairs, name_backbone, resnet_pairs
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
# Buffers that older versions saved: the image's norm, which is read, and anchors, which are made anew.
BUFFERS = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.", "anchor_generator.")
MEAN = (103.53, 116.28, 123.675)


def recognizes(tensors: Tensors) -> bool:
    """Whether there are detectron2's backbone and pyramid."""
    return "backbone.bottom_up.stem.conv1.weight" in tensors and any(
        n.startswith("backbone.fpn_lateral") for n in tensors
    )


def normalize(tensors: Tensors) -> dict[str, Tensor]:
    """Names as they are: they have not changed."""
    return dict(tensors)


def describe(tensors: Tensors, meta: Mapping[str, Any]) -> DetectorConfig:
    """What the tensors' names and shapes say, and the settings of detectron2's model zoo. Raises UserError."""
    config = _describe_dense(tensors) if "head.cls_score.weight" in tensors else _describe_stages(tensors)
    config.pyramid.channels = tensors["backbone.fpn_lateral5.weight"].shape[0]
    config.pyramid.norm = which_norm(tensors, "backbone.fpn_lateral5.norm")
    name = name_backbone(tensors, NAMING)
    config.image = _image(tensors, grouped="x" in name)
    # Weights from Caffe expect images that are not divided; those from elsewhere subsample in the 3 x 3.
    caffe = config.image.std == (1.0, 1.0, 1.0)
    # A frozen norm does not count batches.
    frozen = f"{NAMING.prefix}{NAMING.stem_norm}.num_batches_tracked" not in tensors
    config.backbone = BackboneConfig(name, freeze_at=2, frozen_norm=frozen, stride_in_1x1=caffe)
    config.class_names, config.category_ids = names_and_ids(config.num_classes)
    return config


def layout(tensors: Tensors | None, config: DetectorConfig) -> Layout:
    """Background is last, as it is here."""
    pairs = [*resnet_pairs(NAMING), *_pyramid_pairs(config), *_rpn_pairs(), *_mask_pairs(config), *_dense_pairs(config)]
    if config.roi is not None:
        for stage in [f"{i}." for i in range(len(config.cascade.ious))] if config.cascade else [""]:
            pairs += _box_pairs(config.roi, stage)
    return Layout(pairs, sizes_first=config.dense is not None, ignored=BUFFERS)


def _describe_stages(tensors: Tensors) -> DetectorConfig:
    cascade = "roi_heads.box_predictor.0.cls_score.weight" in tensors
    second = cascade or "roi_heads.box_predictor.cls_score.weight" in tensors
    masks = "roi_heads.mask_head.predictor.weight" in tensors
    config = make_config("cascade_rcnn" if cascade else "mask_rcnn" if masks else "faster_rcnn" if second else "rpn")
    assert config.rpn is not None
    config.rpn.box_loss = BoxLossConfig(kind="l1")
    config.rpn.train_proposals.total = 2000 if cascade or config.proposes else 1000
    if config.proposes:
        config.rpn.test_proposals.total = config.detections.total = 2000
    if cascade:
        stds = [(0.1 / n, 0.1 / n, 0.2 / n, 0.2 / n) for n in (1, 2, 3)]
        config.cascade = CascadeConfig(box_stds=tuple(stds), weights=(1.0, 1.0, 1.0), average="scores")
        config.mask = MaskConfig() if masks else None
    for stage in (config.roi, config.mask):
        if stage is not None:
            stage.align.sampling_ratio, stage.align.aligned = 0, True
    if config.roi is not None:
        config.num_classes = _describe_box_head(config.roi, tensors, "0." if cascade else "")
        # The second stage keeps boxes without area.
        config.detections.min_size = -1.0
    if config.mask is not None:
        config.mask.convs = _count(tensors, "roi_heads.mask_head.mask_fcn{}")
        config.mask.norm = which_norm(tensors, "roi_heads.mask_head.mask_fcn1.norm")
    return config


def _describe_box_head(roi: RoIConfig, tensors: Tensors, stage: str) -> int:
    """Fill in what the head of a stage shows; returns the number of classes."""
    classes = tensors[f"roi_heads.box_predictor.{stage}cls_score.weight"]
    roi.width = classes.shape[1]
    roi.convs = _count(tensors, f"roi_heads.box_head.{stage}conv{{}}")
    roi.norm = which_norm(tensors, f"roi_heads.box_head.{stage}conv1.norm")
    roi.fcs = _count(tensors, f"roi_heads.box_head.{stage}fc{{}}")
    roi.class_agnostic = tensors[f"roi_heads.box_predictor.{stage}bbox_pred.weight"].shape[0] == 4
    roi.box_loss = BoxLossConfig(kind="l1")
    return classes.shape[0] - 1


def _count(tensors: Tensors, name: str) -> int:
    return sum(f"{name.format(i)}.weight" in tensors for i in range(1, 10))


def _describe_dense(tensors: Tensors) -> DetectorConfig:
    config = make_config("retinanet")
    assert config.dense is not None
    config.num_classes = tensors["head.cls_score.weight"].shape[0] * 4 // tensors["head.bbox_pred.weight"].shape[0]
    config.dense.norm = which_norm(tensors, "head.cls_subnet.1")
    config.dense.box_loss = BoxLossConfig(kind="smooth_l1", beta=0.1)
    config.dense.clip_last = True
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
        for there, here in (("lateral", "lateral"), ("output", "output")):
            name = f"backbone.fpn_{there}{i + first}"
            pairs += conv_pairs(name, f"{name}.norm", f"pyramid.{here}.{i}", config.pyramid.norm)
        pairs.append((f"backbone.top_block.p{i + 6}", f"pyramid.extra_convs.{i}"))
    return pairs


def _rpn_pairs() -> Pairs:
    there = "proposal_generator.rpn_head."
    return [
        (f"{there}conv", "rpn.convs.0"),
        (f"{there}objectness_logits", "rpn.logits"),
        (f"{there}anchor_deltas", "rpn.deltas"),
    ]


def _box_pairs(roi: RoIConfig, stage: str) -> Pairs:
    head, here = f"roi_heads.box_head.{stage}", f"roi.{stage}"
    pairs = [(f"{head}fc{i + 1}", f"{here}fc{i + 1}") for i in range(roi.fcs)]
    for i in range(roi.convs):
        pairs += conv_pairs(f"{head}conv{i + 1}", f"{head}conv{i + 1}.norm", f"{here}convs.{i}", roi.norm)
    predictor = f"roi_heads.box_predictor.{stage}"
    return [*pairs, (f"{predictor}cls_score", f"{here}logits"), (f"{predictor}bbox_pred", f"{here}deltas")]


def _mask_pairs(config: DetectorConfig) -> Pairs:
    if config.mask is None:
        return []
    head, pairs = "roi_heads.mask_head.", []
    for i in range(config.mask.convs):
        name = f"{head}mask_fcn{i + 1}"
        pairs += conv_pairs(name, f"{name}.norm", f"mask.convs.{i}", config.mask.norm)
    return [*pairs, (f"{head}deconv", "mask.deconv"), (f"{head}predictor", "mask.logits")]


def _dense_pairs(config: DetectorConfig) -> Pairs:
    if config.dense is None:
        return []
    # Items of a list with a ReLU, and perhaps a norm, behind every convolution.
    step, pairs = 2 if config.dense.norm == "none" else 3, []
    for there, here in (("cls_subnet", "class_convs"), ("bbox_subnet", "box_convs")):
        for i in range(config.dense.convs):
            names = (f"head.{there}.{step * i}", f"head.{there}.{step * i + 1}", f"dense.{here}.{i}")
            pairs += conv_pairs(*names, config.dense.norm)
    return [*pairs, ("head.cls_score", "dense.logits"), ("head.bbox_pred", "dense.deltas")]


FAMILY = Family("detectron2", recognizes, normalize, describe, layout)
