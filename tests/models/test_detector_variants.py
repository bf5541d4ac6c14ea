"""Alternatives that the paper compares with: other pyramids, samplers and losses in every detector."""

from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch

from libradet.balance import BalancedFeaturePyramid
from libradet.models.config import BalancedPyramidConfig, BoxLossConfig, DetectorConfig, FocalConfig, SamplingConfig
from libradet.models.zoo import MODELS
from tests.helpers.tiny_detectors import tiny_batch, tiny_detector, tiny_zoo_config

HEADS = {"rpn": "rpn", "roi": "faster_rcnn", "retinanet": "retinanet"}
LOSSES = get_args(get_type_hints(BoxLossConfig)["type"])


def batch_for(config: DetectorConfig):
    return tiny_batch(size=(64, 128), masks=config.mask is not None, proposals=20)


def take_a_step(config: DetectorConfig):
    """Losses before a step of SGD and after it; all finite, with a finite gradient for every parameter."""
    model, batch = tiny_detector(config), batch_for(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    before = model(batch)
    torch.stack(list(before.values())).sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
    torch.nn.utils.clip_grad_norm_(model.parameters(), 35.0)
    optimizer.step()
    after = model(batch)
    assert before.keys() == after.keys()
    for losses in (before, after):
        assert all(loss.isfinite() for loss in losses.values())
        assert all(loss > 0 for loss in losses.values())
    return model, before


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_pafpn_trains_every_detector(name, balanced):
    config = tiny_zoo_config(name)
    config.pyramid.type = "pafpn"
    config.pyramid.balanced = BalancedPyramidConfig(level=1) if balanced else None
    model, _ = take_a_step(config)
    assert len(model.pyramid.bottom_up) == len(model.pyramid.lateral) - 1
    assert isinstance(model.balance, BalancedFeaturePyramid) == balanced


@pytest.mark.parametrize("name", [name for name, make in MODELS.items() if make().roi is not None])
def test_ohem_trains_every_roi_head(name):
    config = tiny_zoo_config(name)
    config.roi.sampling = SamplingConfig(32, positives="ohem", negatives="ohem")
    take_a_step(config)


@pytest.mark.parametrize("name", ["rpn", "libra_faster_rcnn"])
def test_ohem_trains_the_rpn(name):
    config = tiny_zoo_config(name)
    config.rpn.sampling.negatives = config.rpn.sampling.positives = "ohem"
    take_a_step(config)


def test_ohem_samples_have_a_higher_loss_than_random_ones():
    """Of the same proposals and the same head: no choice has a higher classification loss."""
    config = tiny_zoo_config("faster_rcnn")
    config.roi.sampling.batch_size_per_image = 16
    model, batch = tiny_detector(config), batch_for(config)
    losses = {}
    with torch.no_grad():
        pyramid = model.extract_features(batch)
        proposals = model.rpn.propose(model.rpn(pyramid), batch.sizes, training=True)
        for kind in ("ohem", "random"):
            sampling = replace(config.roi.sampling, positives=kind, negatives=kind)
            model.roi.config = replace(config.roi, sampling=sampling)
            samples = model.roi.sample_proposals(pyramid, proposals, batch)
            losses[kind], _ = model.roi.sample_losses(pyramid, samples, batch)
    assert losses["ohem"]["class"] > 1.1 * losses["random"]["class"]


@pytest.mark.parametrize("name", ["faster_rcnn", "libra_cascade_rcnn", "mask_rcnn", "fast_rcnn"])
def test_focal_loss_of_the_box_head_is_below_cross_entropy(name):
    config = tiny_zoo_config(name)
    _, plain = take_a_step(config)
    config.roi.focal = FocalConfig()
    _, focal = take_a_step(config)
    for part, loss in plain.items():
        if part.startswith("class"):
            assert focal[part] < loss
        else:
            torch.testing.assert_close(focal[part], loss)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("head", HEADS)
def test_every_localization_loss_trains_every_head(head, kind):
    config = tiny_zoo_config(HEADS[head])
    getattr(config, head).box_loss = BoxLossConfig(kind, weight=2.0, beta=0.5)
    take_a_step(config)


@pytest.mark.parametrize("kind", LOSSES)
def test_weights_scale_the_loss(kind):
    """Loss-weight tuning, as the paper compares with (Table 6)."""
    parts = []
    for weight in (1.0, 2.0):
        config = tiny_zoo_config("retinanet")
        config.retinanet.box_loss, config.retinanet.cls_loss_weight = BoxLossConfig(kind, weight=weight), weight
        parts.append(tiny_detector(config)(batch_for(config)))
    for part, loss in parts[0].items():
        torch.testing.assert_close(parts[1][part], 2 * loss)
