"""Samplers of mmdetection's training configurations."""

import pytest

from libradet.interop.mmdetection_sampling import apply_samplers
from libradet.models.config import SamplingConfig
from libradet.models.config_validation import validate_config
from libradet.models.zoo import make_config

LIBRA_RPN = {"type": "RandomSampler", "num": 256, "pos_fraction": 0.5, "neg_pos_ub": 5, "add_gt_as_proposals": False}
LIBRA_BOX_HEAD = {
    "type": "CombinedSampler",
    "num": 512,
    "pos_fraction": 0.25,
    "add_gt_as_proposals": True,
    "pos_sampler": {"type": "InstanceBalancedPosSampler"},
    "neg_sampler": {"type": "IoUBalancedNegSampler", "floor_thr": -1, "floor_fraction": 0, "num_bins": 3},
}
RANDOM = {"type": "RandomSampler", "num": 512, "pos_fraction": 0.25, "neg_pos_ub": -1, "add_gt_as_proposals": True}


def apply(name, rpn, rcnn):
    config = make_config(name)
    apply_samplers(config, {"rpn": {"sampler": rpn}, "rcnn": rcnn})
    validate_config(config)
    return config


@pytest.mark.parametrize("start", ["faster_rcnn", "libra_faster_rcnn"])
def test_published_settings_are_those_of_the_zoo(start):
    libra, plain = make_config("libra_faster_rcnn"), make_config("faster_rcnn")
    config = apply(start, LIBRA_RPN, {"sampler": LIBRA_BOX_HEAD})
    assert (config.rpn.sampling, config.roi.sampling) == (libra.rpn.sampling, libra.roi.sampling)
    config = apply(start, RANDOM | {"num": 256, "pos_fraction": 0.5}, {"sampler": RANDOM})
    assert (config.rpn.sampling.neg_pos_ub, config.roi.sampling.positives) == (None, "random")
    assert config.roi.sampling.negatives == plain.roi.sampling.negatives


def test_floor_of_the_negatives():
    negatives = {"type": "IoUBalancedNegSampler", "floor_thr": 0.1, "floor_fraction": 0.3, "num_bins": 5}
    sampler = LIBRA_BOX_HEAD | {"num": 128, "pos_fraction": 0.5, "neg_sampler": negatives}
    sampling = apply("faster_rcnn", LIBRA_RPN, {"sampler": sampler}).roi.sampling
    expected = SamplingConfig(128, 0.5, "instance_balanced", "iou_balanced", 5, floor_thr=0.1, floor_fraction=0.3)
    assert sampling == expected


def test_cascade_has_the_samplers_of_its_first_stage():
    stages = [{"sampler": LIBRA_BOX_HEAD}, {"sampler": RANDOM}, {"sampler": RANDOM}]
    assert apply("cascade_rcnn", LIBRA_RPN, stages).roi.sampling.negatives == "iou_balanced"


def test_unknown_samplers_and_missing_settings_leave_the_zoo_s():
    before = make_config("libra_faster_rcnn")
    for rcnn in ({"sampler": {"type": "ScoreHLRSampler", "num": 512}}, {}, None, []):
        config = apply("libra_faster_rcnn", None, rcnn)
        assert config.roi.sampling == before.roi.sampling
        assert config.rpn.sampling == before.rpn.sampling


def test_ground_truths_as_proposals():
    sampler = RANDOM | {"add_gt_as_proposals": False}
    assert not apply("faster_rcnn", LIBRA_RPN, {"sampler": sampler}).roi.add_gt_as_proposals
