"""Settings that have no effect are refused where a person states them."""

from dataclasses import fields, is_dataclass

import pytest

from libradet.errors import UserError
from libradet.models.config import DetectorConfig
from libradet.models.unused_settings import _RULES, refuse_unused_settings
from libradet.models.zoo import MODELS, make_config
from libradet.training.options import parse_train, read_detector

UNUSED = [
    ("faster_rcnn", "roi.box_loss.gamma", 1.0, "type balanced_l1"),
    ("rpn", "rpn.box_loss.variant", "mmdet", "type balanced_l1"),
    ("faster_rcnn", "roi.sampling.num_bins", 5, "negatives iou_balanced"),
    ("retinanet", "retinanet.norm", "group", "num_convs above 0"),
    ("rpn", "detections.nms_thresh", 0.5, "rpn.test_proposals"),
    ("faster_rcnn", "detections.sigma", 0.3, "nms_type soft_gaussian"),
    ("faster_rcnn", "detections.min_score", 0.3, "nms_type soft_linear or soft_gaussian"),
    ("faster_rcnn", "pyramid.extra_relu", True, "two extra levels"),
    ("faster_rcnn", "roi.norm", "group", "num_convs above 0"),
    ("cascade_rcnn", "roi.box_std", [0.2, 0.2, 0.4, 0.4], "cascade.box_stds"),
    ("faster_rcnn", "rpn.anchors", {"scales": [4.0], "sizes": [32.0]}, "sizes empty"),
    ("faster_rcnn", "roi.match.min_pos_iou", 0.4, "allow_low_quality_matches true"),
    ("faster_rcnn", "backbone", {"name": "test_vit", "frozen_norm": True}, "a backbone with batch norms"),
    ("rpn", "backbone", {"name": "test_convnext", "norm_eps": 1e-3}, "a backbone with batch norms"),
    ("faster_rcnn", "roi.class_balance", {"type": "seesaw", "frequencies": [9, 1]}, "inverse_frequency or effective"),
    ("faster_rcnn", "roi.class_balance", {"type": "eql_v2", "frequencies": [9, 1]}, "inverse_frequency or effective"),
    ("rpn", "backbone", {"name": "test_resnet", "frozen": True, "freeze_at": 1}, "frozen false"),
    ("rpn", "backbone", {"name": "test_resnet", "frozen": True, "frozen_norm": True}, "frozen false"),
]


def nested(path, value):
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


@pytest.mark.parametrize(("model", "path", "value", "needs"), UNUSED)
def test_settings_without_effect_are_refused(model, path, value, needs):
    values = nested(path, value)
    if needs.startswith("num_convs"):
        values[path.split(".")[0]]["num_convs"] = 0
    with pytest.raises(UserError, match=rf"detector\.{path}.* is .*, which has no effect here: it needs .*{needs}"):
        read_detector(values, model)


def test_the_command_line_is_checked_alike():
    with pytest.raises(UserError, match=r"detector\.roi\.box_loss\.alpha is 0\.2"):
        parse_train(["--data", "x", "--model", "faster_rcnn", "--detector.roi.box_loss.alpha", "0.2"])
    switched = ["--detector.roi.box_loss.type", "balanced_l1"]
    request = parse_train(["--data", "x", "--model", "faster_rcnn", "--detector.roi.box_loss.alpha", "0.2", *switched])
    assert request.detector.roi.box_loss.alpha == 0.2


def test_components_are_switched_off_without_their_settings():
    off = ["--detector.roi.box_loss.type", "smooth_l1", "--detector.roi.sampling.negatives", "random"]
    for model in ("libra_faster_rcnn", "libra_cascade_rcnn"):
        assert parse_train(["--data", "x", "--model", model, *off]).detector.roi.box_loss.gamma == 1.5


def test_settings_of_batch_norms_need_a_backbone_with_them():
    backbone = read_detector({"backbone": {"frozen_norm": True, "norm_eps": 1e-3}}, "rpn", "test_resnet").backbone
    assert (backbone.frozen_norm, backbone.norm_eps) == (True, 1e-3)
    # What goes with ImageNet weights is stated by nobody.
    assert read_detector({}, "rpn", "test_convnext", "imagenet").backbone.frozen_norm
    frozen = read_detector({"backbone": {"frozen": True}}, "rpn", "test_convnext", "imagenet").backbone
    assert (frozen.frozen, frozen.freeze_at) == (True, 2)


@pytest.mark.parametrize("model", MODELS)
def test_models_of_the_zoo_pass(model):
    refuse_unused_settings(make_config(model), make_config(model))


def test_rules_name_fields():
    for part, rules in _RULES.items():
        names = {field.name for field in fields(part)}
        assert is_dataclass(part)
        assert all(set(rule.names) <= names for rule in rules), part
    assert DetectorConfig not in _RULES
