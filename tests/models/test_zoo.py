from dataclasses import replace

import pytest
import torch
from tiny_detectors import tiny_batch, tiny_config, tiny_detector

from libradet.errors import UserError
from libradet.models.build import create_model
from libradet.models.config import BackboneConfig
from libradet.models.serialization import save_model
from libradet.models.zoo import make_config


def test_libra_is_faster_rcnn_and_the_papers_three_components():
    plain, libra = make_config("faster_rcnn"), make_config("libra_faster_rcnn")
    assert plain.pyramid.balanced is None
    assert (libra.pyramid.balanced.level, libra.pyramid.balanced.refine) == (2, "non_local")
    sampling, loss = libra.roi.sampling, libra.roi.box_loss
    assert (sampling.positives, sampling.negatives, sampling.num_bins) == ("instance_balanced", "iou_balanced", 3)
    assert (sampling.bins, loss.variant) == ("paper", "paper")
    assert (loss.type, loss.alpha, loss.gamma, loss.beta) == ("balanced_l1", 0.5, 1.5, 1.0)
    # Switched off again, nothing else is left of it.
    libra.model, libra.pyramid.balanced = plain.model, None
    libra.roi.sampling, libra.roi.box_loss = plain.roi.sampling, plain.roi.box_loss
    libra.rpn.sampling.neg_pos_ub = None
    assert libra == plain


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


def test_settings_of_one_stage_are_those_of_the_authors():
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
    # Switched off again, nothing else is left of it.
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


def test_class_names_decide_the_number_of_classes():
    model = create_model("faster_rcnn", backbone="resnet18", class_names=["cat", "dog"], config=tiny_config())
    assert model.class_names == ["cat", "dog"]
    assert model.config.num_classes == 2
    assert model.roi.logits.out_features == 3
    assert create_model(config=replace(tiny_config(num_classes=2), class_names=())).class_names == [
        "class_0",
        "class_1",
    ]


def test_weights_of_other_classes_keep_all_but_the_last_layers(tmp_path):
    saved = tiny_detector(tiny_config(num_classes=3))
    save_model(saved, tmp_path / "three.safetensors")
    model = create_model(config=tiny_config(num_classes=5), weights=tmp_path / "three.safetensors")
    before, after = saved.state_dict(), model.state_dict()
    assert before.keys() == after.keys()
    last = ("roi.logits.", "roi.deltas.")
    for name, tensor in after.items():
        if name.startswith(last):
            assert tensor.shape != before[name].shape
        else:
            assert torch.equal(tensor, before[name]), name
    assert sum(model.train()(tiny_batch()).values()).isfinite()


def test_weights_of_the_same_classes_are_all_kept(tmp_path):
    saved = tiny_detector()
    save_model(saved, tmp_path / "model.safetensors")
    model = create_model(config=tiny_config(), weights=str(tmp_path / "model.safetensors"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, saved.state_dict()[name]), name


def test_weights_take_their_frozen_parts_and_backbone_along(tmp_path):
    config = tiny_config()
    config.backbone = BackboneConfig("resnet18", freeze_at=2, frozen_norm=True)
    save_model(tiny_detector(config), tmp_path / "model.safetensors")
    assert make_config("faster_rcnn", 3, None, tmp_path / "model.safetensors").backbone == config.backbone
    other = make_config("faster_rcnn", 3, "resnet34", tmp_path / "model.safetensors").backbone
    assert other == BackboneConfig("resnet34")


def test_weights_of_another_backbone_are_refused(tmp_path):
    save_model(tiny_detector(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="another backbone than resnet34"):
        create_model(config=tiny_config(backbone="resnet34"), weights=tmp_path / "model.safetensors")


def test_weights_that_are_not_there():
    with pytest.raises(UserError, match="no such file"):
        create_model("faster_rcnn", weights="imagenett")


def test_ids_stay_with_their_classes():
    config = tiny_config()
    config.category_ids = (4, 5, 9)
    assert create_model(config=config, class_names=list(config.class_names)).category_ids == [4, 5, 9]
    assert create_model(config=config, class_names=["cat", "dog"]).category_ids == [1, 2]
    assert create_model(config=config, class_names=["cat", "dog", "bird"]).category_ids == [1, 2, 3]
