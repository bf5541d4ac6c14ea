"""Invalid configurations are refused with the name of the field."""

from dataclasses import replace

import pytest

from libradet.errors import UserError
from libradet.models.config import BoxLossConfig, FocalConfig, IoUConfig, MatchConfig, SamplingConfig
from libradet.models.config_validation import validate_config, validate_settings
from libradet.models.loss_config import ClassBalanceConfig
from libradet.models.zoo import MODELS, faster_rcnn, libra_faster_rcnn, libra_retinanet


@pytest.mark.parametrize("name", MODELS)
def test_every_entry_of_the_zoo_is_valid(name):
    validate_config(MODELS[name]())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("num_classes", 0),
        ("class_names", ("only one",)),
        ("category_ids", (1, 2)),
        ("image.size", (800, 600)),
        ("image.size", (0, 600)),
        ("image.std", (1.0, 0.0, 1.0)),
        ("image.std", (1.0,)),
        ("image.mean", (float("nan"), 0.0, 0.0)),
        ("pyramid.channels", 0),
        ("pyramid.balanced.level", 5),
        ("pyramid.balanced.level", -1),
        ("rpn.anchors.scales", (8.0, -1.0)),
        ("rpn.anchors.scales", ()),
        ("rpn.anchors.ratios", ()),
        ("rpn.anchors.sizes", (32.0, 0.0)),
        ("rpn.test_proposals.score_thresh", 1.5),
        ("rpn.sampling.batch_size_per_image", 0),
        ("rpn.train_proposals.nms_thresh", 1.5),
        ("roi.align.num_levels", 6),
        ("roi.sampling.positive_fraction", -0.1),
        ("roi.sampling.num_bins", 0),
        ("roi.sampling", SamplingConfig(negatives="random", random_schedule="linear")),
        ("roi.sampling", SamplingConfig(negatives="iou_balanced", random_schedule="linear", floor_fraction=0.5)),
        ("roi.sampling", SamplingConfig(negatives="iou_balanced", random_schedule="linear", random_fraction=1.0)),
        ("roi.sampling", SamplingConfig(negatives="iou_balanced", background_sampling="score_balanced")),
        ("roi.sampling", SamplingConfig(negatives="iou_balanced", floor_fraction=0.5, floor_thr=0.5)),
        ("rpn.sampling", SamplingConfig(negatives="iou_balanced", floor_thr=0.4)),
        ("roi.match", MatchConfig(fg_iou_thresh=0.4, bg_iou_thresh=0.5)),
        ("roi.box_loss", BoxLossConfig(type="balanced_l1", beta=0.0)),
        ("roi.box_loss", BoxLossConfig(type="smooth_l1", beta=-1.0)),
        ("roi.box_loss", BoxLossConfig(type="balanced_l1", alpha=0.0)),
        ("roi.box_loss", BoxLossConfig(type="balanced_l1", alpha=0.01, gamma=1.5)),
        ("roi.focal", FocalConfig(alpha=2.0)),
        ("roi.focal", FocalConfig(gamma=0.5)),
        ("roi.num_fcs", 10**9),
        ("rpn.num_convs", 101),
        ("detections.score_thresh", 1.01),
        ("detections.detections_per_img", 0),
        ("detections.sigma", 0.0),
        ("detections.min_score", -0.1),
        ("roi.iou", IoUConfig(weight=-1.0)),
        ("roi.iou", IoUConfig(beta=-1.0)),
    ],
)
def test_values_out_of_range_are_refused_by_name(path, value):
    config = libra_faster_rcnn()
    *parents, field = path.split(".")
    part = config
    for parent in parents:
        part = getattr(part, parent)
    setattr(part, field, value)
    with pytest.raises(UserError, match=path):
        validate_config(config)


def test_limits_are_allowed():
    config = faster_rcnn()
    config.detections = replace(
        config.detections, score_thresh=0.0, nms_thresh=1.0, detections_per_img=1, min_size=-1.0
    )
    assert config.roi is not None
    config.roi.focal = FocalConfig(gamma=0.0)
    config.roi.box_loss = BoxLossConfig(type="smooth_l1", beta=0.0)
    config.category_ids = tuple(range(80))
    validate_config(config)


def test_settings_are_validated_before_the_classes_are_known():
    config = libra_retinanet()
    config.roi = faster_rcnn().roi
    with pytest.raises(UserError, match="retinanet cannot be combined with other heads; set roi to null"):
        validate_settings(config)
    config = faster_rcnn()
    assert config.roi is not None
    config.roi.class_balance = ClassBalanceConfig(frequencies=(3, 4))
    validate_settings(config)
    with pytest.raises(UserError, match="frequencies has 2 entries"):
        validate_config(config)


def test_scores_of_proposals_need_an_rpn():
    config = MODELS["libra_fast_rcnn"]()
    assert config.roi is not None
    config.roi.sampling = SamplingConfig(
        negatives="iou_balanced", floor_fraction=0.5, floor_thr=0.1, background_sampling="score_balanced"
    )
    with pytest.raises(
        UserError, match=r"roi.sampling.background_sampling is score_balanced: it needs the scores of an RPN"
    ):
        validate_config(config)
