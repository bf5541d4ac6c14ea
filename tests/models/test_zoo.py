"""Configurations of the model zoo."""

import pytest

from libradet.errors import UserError
from libradet.models.build import create_model
from libradet.models.config import BackboneConfig
from libradet.models.serialization import save_model
from libradet.models.zoo import make_config
from tests.helpers.tiny_detectors import tiny_config, tiny_detector


def test_libra_is_faster_rcnn_and_the_papers_three_components():
    plain, libra = make_config("faster_rcnn"), make_config("libra_faster_rcnn")
    assert plain.pyramid.balanced is None
    assert (libra.pyramid.balanced.level, libra.pyramid.balanced.refine) == (2, "non_local")
    sampling, loss = libra.roi.sampling, libra.roi.box_loss
    assert (sampling.positives, sampling.negatives, sampling.num_bins) == ("instance_balanced", "iou_balanced", 3)
    assert (sampling.bins, loss.variant) == ("paper", "paper")
    assert (loss.type, loss.alpha, loss.gamma, loss.beta) == ("balanced_l1", 0.5, 1.5, 1.0)
    # With these switched off, nothing else differs.
    libra.model, libra.pyramid.balanced = plain.model, None
    libra.roi.sampling, libra.roi.box_loss = plain.roi.sampling, plain.roi.box_loss
    libra.rpn.sampling.neg_pos_ub = None
    assert libra == plain


def test_balanced_differs_from_faster_rcnn_in_samples_pyramid_and_box_loss_alone():
    plain, balanced = make_config("faster_rcnn"), make_config("balanced_faster_rcnn")
    sampling = balanced.roi.sampling
    assert balanced.pyramid.balanced.gated
    assert sampling.batch_size_per_image == 4 * plain.roi.sampling.batch_size_per_image
    assert (sampling.positives, sampling.negatives, sampling.random_fraction) == (
        "instance_balanced",
        "iou_balanced",
        0.5,
    )
    assert balanced.roi.box_loss == make_config("libra_faster_rcnn").roi.box_loss
    assert balanced.roi.generated_boxes == 4
    balanced.model, balanced.pyramid.balanced, balanced.roi.generated_boxes = plain.model, None, 0
    balanced.roi.sampling, balanced.roi.box_loss = plain.roi.sampling, plain.roi.box_loss
    assert balanced == plain


@pytest.mark.parametrize("name", ["faster_rcnn", "libra_faster_rcnn"])
def test_settings_are_those_of_the_authors(name):
    config = make_config(name)
    assert config.model == name
    assert (config.pyramid.channels, config.pyramid.num_levels) == (256, 5)
    assert (config.rpn.anchors.scales, config.rpn.anchors.ratios) == ((8.0,), (0.5, 1.0, 2.0))
    rpn, roi = config.rpn.match, config.roi.match
    assert (rpn.fg_iou_thresh, rpn.bg_iou_thresh, rpn.min_pos_iou, rpn.allow_low_quality_matches) == (
        0.7,
        0.3,
        0.3,
        True,
    )
    assert (roi.fg_iou_thresh, roi.bg_iou_thresh, roi.allow_low_quality_matches) == (0.5, 0.5, False)
    assert (config.rpn.sampling.batch_size_per_image, config.rpn.sampling.positive_fraction) == (256, 0.5)
    assert (config.roi.sampling.batch_size_per_image, config.roi.sampling.positive_fraction) == (512, 0.25)
    assert config.rpn.box_loss.beta == pytest.approx(1 / 9)
    for suppression, number in ((config.rpn.train_proposals, 2000), (config.rpn.test_proposals, 1000)):
        assert (suppression.pre_nms_top_n, suppression.post_nms_top_n, suppression.nms_thresh) == (number, number, 0.7)
    found = config.detections
    assert (found.score_thresh, found.nms_thresh, found.detections_per_img) == (0.05, 0.5, 100)
    assert config.roi.box_std == (0.1, 0.1, 0.2, 0.2)


def test_settings_of_retinanet_are_those_of_the_authors():
    plain, libra = make_config("retinanet"), make_config("libra_retinanet")
    dense = plain.retinanet
    assert (plain.pyramid.start_stride, plain.pyramid.num_levels, plain.pyramid.extra_levels) == (8, 5, "conv_on_c5")
    assert dense.anchors.scales == pytest.approx((4, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)))
    assert (dense.anchors.ratios, dense.num_convs, dense.prior_prob) == ((0.5, 1.0, 2.0), 4, 0.01)
    assert (dense.focal.gamma, dense.focal.alpha) == (2.0, 0.25)
    assert (dense.match.fg_iou_thresh, dense.match.bg_iou_thresh, dense.match.min_pos_iou) == (0.5, 0.4, 0.0)
    assert (dense.box_loss.type, dense.box_loss.beta) == ("smooth_l1", 0.11)
    loss = libra.retinanet.box_loss
    assert (loss.type, loss.alpha, loss.gamma, loss.beta, loss.variant) == ("balanced_l1", 0.5, 1.5, 0.11, "paper")
    assert (libra.pyramid.balanced.level, libra.pyramid.balanced.refine) == (1, "non_local")
    # With these switched off, nothing else differs.
    libra.model, libra.pyramid.balanced, libra.retinanet.box_loss = plain.model, None, dense.box_loss
    assert libra == plain


def test_configurations_are_not_shared():
    a, b = make_config("libra_faster_rcnn"), make_config("libra_faster_rcnn")
    a.roi.sampling.batch_size_per_image = 7
    a.rpn.anchors.scales = (1.0,)
    a.pyramid.balanced.level = 0
    assert b == make_config("libra_faster_rcnn")


@pytest.mark.parametrize(
    ("name", "words"), [("libra_faster_rcn", "did you mean 'libra_faster_rcnn'"), ("yolo", "choose from faster_rcnn")]
)
def test_unknown_names(name, words):
    with pytest.raises(UserError, match=words):
        create_model(name)


def test_random_weights_freeze_nothing():
    config = make_config("faster_rcnn", 3, "resnet18")
    assert config.backbone == BackboneConfig("resnet18", freeze_at=0, frozen_norm=False)


def test_imagenet_weights_freeze_stem_first_stage_and_norms():
    config = make_config("faster_rcnn", 3, "resnet18", "imagenet")
    assert config.backbone == BackboneConfig("resnet18", freeze_at=2, frozen_norm=True)


def test_weights_take_their_frozen_parts_and_backbone_along(tmp_path):
    config = tiny_config()
    config.backbone = BackboneConfig("resnet18", freeze_at=2, frozen_norm=True)
    save_model(tiny_detector(config), tmp_path / "model.safetensors")
    assert make_config("faster_rcnn", 3, None, tmp_path / "model.safetensors").backbone == config.backbone
    other = make_config("faster_rcnn", 3, "resnet34", tmp_path / "model.safetensors").backbone
    assert other == BackboneConfig("resnet34")
