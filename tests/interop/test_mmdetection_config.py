"""Settings in mmdetection's checkpoints, as versions 1, 2 and 3 write them."""

import json
import re

import pytest
import torch

from libradet.errors import UserError
from libradet.interop import mmdetection
from libradet.interop.coco_classes import IDS, NAMES
from libradet.models.config import DetectorConfig


@pytest.fixture
def infer(shared_data):
    """Return a function that infers the configuration from names and shapes of tensors, and settings."""

    def infer(name: str, settings: str, drop: str = "there is none", **meta) -> DetectorConfig:
        path = shared_data.parent / "parity" / "mmdet_keys" / f"{name}.json"
        if not path.is_file():
            pytest.skip(f"{path} is absent")
        tensors = {n: torch.empty(shape, device="meta") for n, shape, _ in json.loads(path.read_text())["tensors"]}
        tensors = {n: t for n, t in tensors.items() if not n.startswith(drop)}
        return mmdetection.infer_config(mmdetection.normalize_keys(tensors), {"cfg": settings, **meta})

    return infer


CASCADE = """
model = dict(
    type='CascadeRCNN',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], bgr_to_rgb=True, pad_size_divisor=64),
    backbone=dict(type='ResNet', norm_cfg=dict(type='BN', eps=0.001), norm_eval=True, style='pytorch'),
    neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], num_outs=5, relu_before_extra_convs=True),
    rpn_head=dict(
        anchor_generator=dict(
            type='AnchorGenerator', scales=[8], ratios=[1.0], strides=[4, 8, 16, 32, 64], center_offset=0.5),
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[1.0, 1.0, 1.0, 1.0])),
    roi_head=dict(
        type='CascadeRoIHead',
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
            featmap_strides=[4, 8, 16, 32],
            finest_scale=28),
        bbox_head=[
            dict(bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2])),
            dict(bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.06, 0.06, 0.1, 0.1])),
            dict(bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.03, 0.03, 0.05, 0.05]))]))
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(1000, 600), keep_ratio=True)]
"""


def test_cascade_of_version_3(infer):
    config = infer("cascade_rcnn_r50_fpn", CASCADE)
    assert config.image.size_divisible == 64
    assert config.image.size == (600, 1000)
    assert (config.image.mean, config.image.std) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert config.backbone.norm_eps == 0.001
    assert config.pyramid.extra_relu
    assert (config.rpn.anchors.ratios, config.rpn.anchors.offset) == ((1.0,), 0.5)
    assert config.roi.align.canonical_size == 112.0
    assert config.cascade.box_stds == ((0.1, 0.1, 0.2, 0.2), (0.06, 0.06, 0.1, 0.1), (0.03, 0.03, 0.05, 0.05))


def test_stages_of_a_cascade_may_have_an_extractor_each(infer):
    start = CASCADE.index("dict(\n            type='SingleRoIExtractor'")
    one = CASCADE[start : CASCADE.index(",\n        bbox_head=[")].replace("sampling_ratio=0", "sampling_ratio=2")
    config = infer("cascade_rcnn_r50_fpn", CASCADE.replace(CASCADE[start : start + len(one)], f"[{one}, {one}, {one}]"))
    assert (config.roi.align.canonical_size, config.roi.align.sampling_ratio) == (112.0, 2)
    other = one.replace("finest_scale=28", "finest_scale=56")
    with pytest.raises(UserError, match="bbox_roi_extractors of its stages differ"):
        infer("cascade_rcnn_r50_fpn", CASCADE.replace(CASCADE[start : start + len(one)], f"[{one}, {one}, {other}]"))


def test_types_may_be_named_with_their_modules(infer):
    """As configurations that import what they name are written."""
    text = f"""{CASCADE}
train_cfg = dict(rcnn=[dict(sampler=dict(type='OHEMSampler'))])
test_cfg = dict(rpn=dict(nms=dict(type='nms', iou_threshold=0.6)), rcnn=dict(score_thr=0.1, nms=dict(type='soft_nms')))
"""
    config = infer("cascade_rcnn_r50_fpn", re.sub(r"type='(\w+)'", r"type='mmdet.models.part.\1'", text))
    assert config == infer("cascade_rcnn_r50_fpn", text)
    assert (config.roi.sampling.positives, config.detections.nms_type) == ("ohem", "soft_linear")


STALE = "test_pipeline = [dict(type='Resize', scale=(1000, 600), keep_ratio=True), dict(size_divisor=64)]"
STEPS = """dict(type='Resize', keep_ratio=True), dict(type='Normalize', mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0]),
dict(type='Pad', size_divisor=16)"""
AUGMENTED = f"dict(type='MultiScaleFlipAug', img_scale=(640, 480), flip=False, transforms=[{STEPS}])"
NORMALIZED = "mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb=True"
RESIZED = "dict(type='Resize', scale=(640, 480), keep_ratio=True)"


@pytest.mark.parametrize(
    ("settings", "size", "mean", "channels", "size_divisible"),
    [
        (f"data = dict(test=dict(type='CocoDataset', pipeline=[{AUGMENTED}]))", (480, 640), 1.0, "rgb", 16),
        (
            f"data = dict(test=dict(img_scale=(640, 480), img_norm_cfg=dict({NORMALIZED}), size_divisor=16))",
            (480, 640),
            1.0,
            "rgb",
            16,
        ),
        (f"test_dataloader = dict(dataset=dict(pipeline=[{RESIZED}]))", (480, 640), 123.675, "rgb", 32),
        ("test_dataloader = None", (600, 1000), 123.675, "rgb", 64),
        ("img_norm_cfg = dict(mean=[1.0, 1.0, 1.0], std=[1.0, 1.0, 1.0])", (600, 1000), 1.0, "rgb", 64),
        ("img_norm_cfg = dict(mean=[1, 1, 1], std=[1, 1, 1], to_rgb=False)", (600, 1000), 1.0, "bgr", 64),
        ("data = dict(test=dict(pipeline=[dict(img_scale=[(640, 480)])]))", (480, 640), 123.675, "rgb", 32),
        ("data = dict(test=dict(pipeline=[dict(img_scale=[(1, 2), (3, 4)])]))", (800, 1333), 123.675, "rgb", 32),
    ],
)
def test_images_are_read_as_the_test_command_reads_them(infer, settings, size, mean, channels, size_divisible):
    image = infer("faster_rcnn_r50_fpn", f"model = dict(backbone=dict())\n{STALE}\n{settings}").image
    assert (image.size, image.mean[0], image.channels, image.size_divisible) == (size, mean, channels, size_divisible)


@pytest.mark.parametrize(
    "step", ["scale=(640, 480)", "scale=(640, 480), keep_ratio=False", "img_scale=(640, 480), keep_ratio=False"]
)
def test_images_of_another_aspect_ratio_are_refused(infer, step):
    with pytest.raises(UserError, match="aspect ratio"):
        infer("faster_rcnn_r50_fpn", f"model = dict(a=1)\ntest_pipeline = [dict(type='mmdet.Resize', {step})]")


def test_cascade_ignores_anchors_across_the_border_and_keeps_more_proposals(infer):
    config = infer("cascade_rcnn_r50_fpn", CASCADE)
    assert (config.rpn.allowed_border, config.rpn.train_proposals.post_nms_top_n) == (0.0, 2000)
    train = "train_cfg = dict(rpn=dict(allowed_border=-1), rpn_proposal=dict(nms_pre=1500, max_per_img=700))"
    config = infer("cascade_rcnn_r50_fpn", f"{CASCADE}{train}")
    assert config.rpn.allowed_border is None
    assert (config.rpn.train_proposals.pre_nms_top_n, config.rpn.train_proposals.post_nms_top_n) == (1500, 700)
    assert infer("faster_rcnn_r50_fpn", "").rpn.allowed_border is None


VERSION_1 = """
norm = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
model = dict(
    type='FasterRCNN',
    backbone=dict(type='ResNet', depth=50, frozen_stages=1, style='pytorch'),
    neck=[
        dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5),
        dict(type='BFP', in_channels=256, num_levels=5, refine_level=1, refine_type='non_local')],
    rpn_head=dict(
        type='RPNHead', anchor_scales=[4], anchor_ratios=[0.5, 1.0], anchor_strides=[4, 8, 16, 32, 64],
        target_means=[.0, .0, .0, .0], target_stds=[1.0, 1.0, 1.0, 1.0]),
    bbox_roi_extractor=dict(
        type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', out_size=7, sample_num=2),
        out_channels=256, featmap_strides=[4, 8, 16, 32]),
    bbox_head=dict(
        type='SharedFCBBoxHead', num_fcs=2, target_means=[0., 0., 0., 0.], target_stds=[0.1, 0.1, 0.3, 0.3]))
test_cfg = dict(
    rpn=dict(
        nms_across_levels=False, nms_pre=900, nms_post=900, max_num=800, nms_thr=0.6, min_bbox_size=0),
    rcnn=dict(score_thr=0.1, nms=dict(type='nms', iou_thr=0.4), max_per_img=50))
test_pipeline = [
    dict(type='MultiScaleFlipAug', img_scale=(1000, 600), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True), dict(type='Pad', size_divisor=16)])]
"""


def test_version_1(infer):
    config = infer("libra_faster_rcnn_r50_fpn", VERSION_1, mmdet_version="1.1.0")
    assert config.pyramid.balanced.level == 1
    anchors = config.rpn.anchors
    assert (anchors.scales, anchors.ratios, anchors.offset, anchors.rounded) == ((4.0,), (0.5, 1.0), 0.5, True)
    assert config.roi.box_std == (0.1, 0.1, 0.3, 0.3)
    assert (config.roi.align.sampling_ratio, config.roi.align.aligned) == (2, False)
    proposals = config.rpn.test_proposals
    assert (proposals.pre_nms_top_n, proposals.post_nms_top_n, proposals.nms_thresh) == (900, 800, 0.6)
    assert (config.detections.score_thresh, config.detections.nms_thresh, config.detections.detections_per_img) == (
        0.1,
        0.4,
        50,
    )
    assert (config.image.size_divisible, config.image.size) == (16, (600, 1000))


@pytest.mark.parametrize("names", [NAMES, tuple(name.replace(" ", "_") for name in NAMES)])
def test_classes_of_coco_have_its_ids(infer, names):
    config = infer("faster_rcnn_r50_fpn", "", CLASSES=names)
    assert (config.class_names, config.category_ids) == (NAMES, IDS)


def test_version_2_trained_before_its_release(infer):
    """Files published with version 2.0 may say 1.x, with settings that only 2.0 has."""
    head = "rpn_head=dict(anchor_generator=dict(scales=[8]))"
    config = infer("faster_rcnn_r50_fpn", f"model = dict({head})", mmdet_version="1.0rc1+5f9f470")
    assert (config.rpn.anchors.offset, config.rpn.anchors.rounded) == (0.0, False)
    assert (config.roi.align.sampling_ratio, config.roi.align.aligned) == (0, True)


def test_number_of_proposals_of_an_rpn(infer):
    rpn = "dict(nms_pre=3000, max_per_img=2500, nms=dict(type='nms', iou_threshold=0.8), min_bbox_size=0)"
    config = infer("rpn_r50_fpn", f"model = dict(type='RPN', test_cfg=dict(rpn={rpn}))")
    assert (config.rpn.test_proposals.post_nms_top_n, config.detections.detections_per_img) == (2500, 2500)


def test_retinanet(infer):
    test = "dict(nms_pre=500, min_bbox_size=3, score_thr=0.2, nms=dict(type='nms', iou_threshold=0.6), max_per_img=70)"
    head = "dict(anchor_generator=dict(octave_base_scale=2, scales_per_octave=2, ratios=[1.0], strides=[8]))"
    config = infer("retinanet_r50_fpn", f"model = dict(bbox_head={head}, test_cfg={test})")
    assert config.retinanet.anchors.scales == (2.0, 2 * 2**0.5)
    assert (config.retinanet.topk_candidates, config.detections.min_size) == (500, 3.0)
    assert (config.detections.score_thresh, config.detections.nms_thresh, config.detections.detections_per_img) == (
        0.2,
        0.6,
        70,
    )


@pytest.mark.parametrize(
    ("nms", "expected"),
    [
        ("type='soft_nms', iou_threshold=0.5, min_score=0.05", ("soft_linear", 0.5, 0.5, 0.05)),
        ("type='soft_nms', method='gaussian', sigma=0.3", ("soft_gaussian", 0.3, 0.3, 0.001)),
        ("type='nms', iou_threshold=0.6", ("nms", 0.6, 0.5, 0.001)),
    ],
)
def test_soft_nms(infer, nms, expected):
    test = f"test_cfg=dict(rcnn=dict(score_thr=0.1, nms=dict({nms}), max_per_img=70))"
    found = infer("faster_rcnn_r50_fpn", f"model = dict({test})").detections
    assert (found.nms_type, found.nms_thresh, found.sigma, found.min_score) == expected


def test_box_head_without_rpn(infer):
    assert infer("faster_rcnn_r50_fpn", "", drop="rpn_head.").model == "fast_rcnn"
    assert infer("libra_faster_rcnn_r50_fpn", "", drop="rpn_head.").model == "libra_fast_rcnn"


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("backbone=dict(dilations=(1, 1, 1, 2))", r"dilations=\[1, 1, 1, 2\]"),
        ("neck=dict(in_channels=[1], add_extra_convs='on_lateral')", "add_extra_convs='on_lateral'"),
        ("neck=dict(in_channels=[1], act_cfg=dict(type='ReLU'))", "activations"),
        ("neck=dict(in_channels=[1], upsample_cfg=dict(mode='bilinear'))", "mode='bilinear'"),
        ("rpn_head=dict(anchor_generator=dict(type='LegacyAnchorGenerator'))", "LegacyAnchorGenerator"),
        ("rpn_head=dict(bbox_coder=dict(type='LegacyDeltaXYWHBBoxCoder'))", "LegacyDeltaXYWHBBoxCoder"),
        ("rpn_head=dict(bbox_coder=dict(target_stds=[1.0, 1.0, 0.5, 0.5]))", r"target_stds=\[1.0, 1.0, 0.5, 0.5\]"),
        ("roi_head=dict(bbox_head=dict(bbox_coder=dict(target_means=[0.0, 0.0, 0.5, 0.0])))", "target_means="),
        ("roi_head=dict(bbox_roi_extractor=dict(type='GenericRoIExtractor'))", "GenericRoIExtractor"),
        ("roi_head=dict(bbox_roi_extractor=dict(roi_layer=dict(type='RoIPool')))", "RoIPool"),
        ("test_cfg=dict(rpn=dict(nms=dict(type='soft_nms')))", "soft_nms"),
        ("test_cfg=dict(rcnn=dict(score_thr=0.1, nms=dict(type='nms', class_agnostic=True)))", "class_agnostic=True"),
        ("test_cfg=dict(rcnn=dict(score_thr=0.1, mask_thr_binary=0.4))", "mask_thr_binary=0.4"),
    ],
)
def test_unsupported_settings_that_change_detections_are_refused(infer, setting, named):
    with pytest.raises(UserError, match=named):
        infer("mask_rcnn_r50_fpn", f"model = dict({setting})")


def test_mask_heads_per_stage_are_refused():
    tensors = {f"roi_head.{n}.weight": torch.empty(1) for n in ("bbox_head.0.fc_cls", "mask_head.0.conv_logits")}
    with pytest.raises(UserError, match="a mask head for each stage"):
        mmdetection.infer_config({"neck.lateral_convs.0.conv.weight": torch.empty(1), **tensors}, {})
