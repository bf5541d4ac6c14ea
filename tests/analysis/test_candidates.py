"""What is counted is what training learns from: candidates' losses and errors add up to the detector's own losses."""

import pytest
import torch
import torch.nn.functional as F
from tiny_detectors import take_all_samples, tiny_batch, tiny_config, tiny_detector, tiny_zoo_config

from libradet.analysis.candidates import candidates_of, stages
from libradet.analysis.watching import watching
from libradet.geometry.matching import NEGATIVE
from libradet.models.config import BoxLossConfig

BATCH = tiny_batch(crowd=(False, False), num_images=2)


def seen_by(model, batch):
    """The candidates of every stage, and the losses of training with norms as they are."""
    model.eval()
    with torch.no_grad(), watching(model) as seen:
        model(batch)
        found = {stage.key: candidates_of(stage, model, seen, batch) for stage in stages(model.config)}
        model.training = True
        losses = model(batch)
    return found, losses


def sums(candidates, beta):
    """Classification and localization loss, summed, and how many candidates are positive or negative."""
    gt = candidates.matches.gt
    errors = candidates.errors[gt >= 0]
    box = F.smooth_l1_loss(errors, torch.zeros_like(errors), reduction="sum", beta=beta)
    return candidates.loss[gt >= NEGATIVE].sum(), box, (gt >= NEGATIVE).sum(), (gt >= 0).sum()


def test_two_stages():
    config = take_all_samples(tiny_config("faster_rcnn"))
    config.roi.sampling.positive_fraction = 1.0
    found, losses = seen_by(tiny_detector(config), BATCH)
    for key, prefix in (("rpn", "rpn_"), ("roi", "")):
        beta = getattr(config, key).box_loss.beta
        classes, boxes, learned, positives = sums(found[key], beta)
        assert positives > 4
        assert losses[f"{prefix}class"].item() == pytest.approx(classes.item() / learned.item(), rel=1e-4)
        assert losses[f"{prefix}box"].item() == pytest.approx(boxes.item() / learned.item(), rel=1e-4)


def test_one_stage():
    config = tiny_zoo_config("retinanet")
    found, losses = seen_by(tiny_detector(config), BATCH)
    classes, boxes, _, positives = sums(found["dense"], config.dense.box_loss.beta)
    assert losses["class"].item() == pytest.approx(classes.item() / positives.item(), rel=1e-4)
    assert losses["box"].item() == pytest.approx(boxes.item() / positives.item(), rel=1e-4)


def test_the_first_stage_of_a_cascade_stands_for_all():
    config = tiny_zoo_config("cascade_rcnn")
    config.roi.sampling.size, config.roi.sampling.positive_fraction = 256, 1.0
    found, losses = seen_by(tiny_detector(config), BATCH)
    classes, boxes, learned, _ = sums(found["roi"], 1.0)
    assert losses["class_1"].item() == pytest.approx(classes.item() / learned.item(), rel=1e-4)
    assert losses["box_1"].item() == pytest.approx(boxes.item() / learned.item(), rel=1e-4)


def test_given_proposals():
    config = tiny_zoo_config("fast_rcnn")
    config.roi.sampling.size, config.roi.sampling.positive_fraction = 64, 1.0
    batch = tiny_batch(proposals=20)
    found, losses = seen_by(tiny_detector(config), batch)
    assert list(found) == ["roi"]
    classes, _, learned, _ = sums(found["roi"], 1.0)
    assert losses["class"].item() == pytest.approx(classes.item() / learned.item(), rel=1e-4)


def test_levels_of_anchors():
    model = tiny_detector(tiny_zoo_config("rpn"))
    found, _ = seen_by(model, BATCH)
    counts = torch.bincount(found["rpn"].levels[0]).tolist()
    assert counts == [3 * (64 // s) * (-(-96 // s)) for s in (4, 8, 16, 32)] + counts[4:]
    assert sum(counts) == found["rpn"].boxes.shape[1]
    assert len(counts) == 5


def test_a_cascades_later_parts_and_other_losses_keep_their_units():
    two = stages(tiny_zoo_config("faster_rcnn"))
    assert [stage.unit for stage in two] == [1 / 9, 1.0]
    config = tiny_zoo_config("retinanet")
    config.dense.box_loss = BoxLossConfig(kind="l1")
    assert stages(config)[0].unit == 1 / 9, "plain L1 has no β: that of the zoo counts"
    assert not stages(config)[0].samples
