"""Losses and regression errors of the candidates add up to the detector's own training losses."""

import pytest
import torch
import torch.nn.functional as F

from libradet.analysis.candidates import candidates_of, capture_activations, stages_of
from libradet.geometry.matching import NEGATIVE
from libradet.models.config import BoxLossConfig
from tests.helpers.tiny_detectors import take_all_samples, tiny_batch, tiny_config, tiny_detector, tiny_zoo_config

BATCH = tiny_batch(crowd=(False, False), num_images=2)


def candidates_and_losses(model, batch):
    """Return the candidates of every stage, and the training losses with stored normalization statistics."""
    model.eval()
    with torch.no_grad(), capture_activations(model) as activations:
        model(batch)
        candidates = {stage.key: candidates_of(stage, model, activations, batch) for stage in stages_of(model.config)}
        model.training = True
        losses = model(batch)
    return candidates, losses


def sums(candidates, beta):
    """Return summed classification and box loss, and the number of labeled and of positive candidates."""
    gt = candidates.matches.gt
    errors = candidates.errors[gt >= 0]
    box = F.smooth_l1_loss(errors, torch.zeros_like(errors), reduction="sum", beta=beta)
    return candidates.loss[gt >= NEGATIVE].sum(), box, (gt >= NEGATIVE).sum(), (gt >= 0).sum()


def test_two_stages():
    config = take_all_samples(tiny_config("faster_rcnn", backbone="resnet18"))
    config.roi.sampling.positive_fraction = 1.0
    candidates, losses = candidates_and_losses(tiny_detector(config), BATCH)
    for key, prefix in (("rpn", "rpn_"), ("roi", "")):
        beta = getattr(config, key).box_loss.beta
        classes, boxes, learned, positives = sums(candidates[key], beta)
        assert positives > 4
        assert losses[f"{prefix}class"].item() == pytest.approx(classes.item() / learned.item(), rel=1e-4)
        assert losses[f"{prefix}box"].item() == pytest.approx(boxes.item() / learned.item(), rel=1e-4)


def test_one_stage():
    config = tiny_zoo_config("retinanet", backbone="resnet18")
    candidates, losses = candidates_and_losses(tiny_detector(config), BATCH)
    classes, boxes, _, positives = sums(candidates["retinanet"], config.retinanet.box_loss.beta)
    assert losses["class"].item() == pytest.approx(classes.item() / positives.item(), rel=1e-4)
    assert losses["box"].item() == pytest.approx(boxes.item() / positives.item(), rel=1e-4)


def test_of_a_cascade_the_first_stage_is_analyzed():
    config = tiny_zoo_config("cascade_rcnn", backbone="resnet18")
    config.roi.sampling.batch_size_per_image, config.roi.sampling.positive_fraction = 256, 1.0
    candidates, losses = candidates_and_losses(tiny_detector(config), BATCH)
    classes, boxes, learned, _ = sums(candidates["roi"], 1.0)
    assert losses["class_1"].item() == pytest.approx(classes.item() / learned.item(), rel=1e-4)
    assert losses["box_1"].item() == pytest.approx(boxes.item() / learned.item(), rel=1e-4)


def test_given_proposals():
    config = tiny_zoo_config("fast_rcnn", backbone="resnet18")
    config.roi.sampling.batch_size_per_image, config.roi.sampling.positive_fraction = 64, 1.0
    batch = tiny_batch(proposals=20)
    candidates, losses = candidates_and_losses(tiny_detector(config), batch)
    assert list(candidates) == ["roi"]
    classes, _, learned, _ = sums(candidates["roi"], 1.0)
    assert losses["class"].item() == pytest.approx(classes.item() / learned.item(), rel=1e-4)


def test_levels_of_anchors():
    model = tiny_detector(tiny_zoo_config("rpn", backbone="resnet18"))
    candidates, _ = candidates_and_losses(model, BATCH)
    counts = torch.bincount(candidates["rpn"].levels[0]).tolist()
    assert counts == [3 * (64 // s) * (-(-96 // s)) for s in (4, 8, 16, 32)] + counts[4:]
    assert sum(counts) == candidates["rpn"].boxes.shape[1]
    assert len(counts) == 5


def test_errors_are_in_units_of_the_losses_beta():
    two = stages_of(tiny_zoo_config("faster_rcnn", backbone="resnet18"))
    assert [stage.beta for stage in two] == [1 / 9, 1.0]
    config = tiny_zoo_config("retinanet", backbone="resnet18")
    config.retinanet.box_loss = BoxLossConfig(type="l1")
    assert stages_of(config)[0].beta == 1 / 9, "L1 has no β: the zoo's is used"
    assert not stages_of(config)[0].uses_sampling
    config.retinanet.box_loss = BoxLossConfig(type="smooth_l1", beta=0.0)
    assert stages_of(config)[0].beta == 1 / 9, "smooth L1 with a β of 0 is L1"


def test_loss_weights_of_a_cascade_are_those_of_its_options():
    config = tiny_zoo_config("cascade_rcnn", backbone="resnet18")
    config.cascade.weights = (0.5, 1.0, 2.0)
    config.roi.cls_loss_weight, config.roi.box_loss.weight = 3.0, 4.0
    stage = stages_of(config)[-1]
    assert (stage.cls_loss_weight, stage.box_loss.weight) == (3.0, 4.0)
    assert stage.min_positive_iou == config.cascade.iou_thresholds[0]
