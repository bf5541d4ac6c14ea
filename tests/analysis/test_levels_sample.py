"""Statistics of samplers, on candidates with known answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from libradet.analysis.candidates import Candidates, Stage
from libradet.analysis.levels.sample import (
    SampleStatistics,
    count_per_object,
    iou_histogram,
    sample_as_trained,
    summarize_positives,
    top_share,
)
from libradet.geometry.matching import IGNORED, NEGATIVE, Matches
from libradet.models.config import BoxLossConfig, SamplingConfig


def make_candidates(gt, iou, loss):
    gt, iou, loss = torch.tensor(gt), torch.tensor(iou), torch.tensor(loss)
    boxes = torch.zeros(*gt.shape, 4)
    return Candidates(boxes, Matches(gt, iou), loss, boxes, torch.zeros_like(gt))


def statistics_of(candidates, objects, size=4, fraction=0.5, key="roi", threshold=0.5, **sampling):
    config = SamplingConfig(size, fraction, **sampling)
    stage = Stage(key, "proposals", config, 0.5, BoxLossConfig(), min_positive_iou=threshold)
    statistics = SampleStatistics(stage, seed=0)
    objects = torch.tensor(objects)
    statistics.update(candidates, objects, torch.full(objects.shape, 100.0, dtype=torch.float64), seed=0)
    return statistics.compute()


def test_bins_are_open_below_and_closed_above():
    iou = torch.tensor([[0.0, 0.05, 0.0501, 0.1, 0.49, 0.9]])
    counts = iou_histogram(iou, torch.ones_like(iou), 10)
    assert_close(counts, torch.tensor([[2.0, 2, 0, 0, 0, 0, 0, 0, 0, 2]], dtype=torch.float64))


def test_weights_are_added_up():
    counts = iou_histogram(torch.tensor([[0.01, 0.02, 0.3]]), torch.tensor([[1.5, 2.0, 0.25]]), 10)
    assert_close(counts[0, [0, 5]], torch.tensor([3.5, 0.25], dtype=torch.float64))
    assert counts.sum() == 3.75


def test_shares_of_all_hard_and_hardest_negatives():
    # 20 negatives, half of which overlap; the one of largest loss (5 % of 20) does, the second does not.
    iou = [[0.0] * 10 + [0.2] * 10]
    loss = [[0.9] + [0.1] * 9 + [1.0] + [0.2] * 9]
    rows = statistics_of(make_candidates([[NEGATIVE] * 20], iou, loss), [[True]])["negatives"]
    assert rows["all"]["count"] == 20
    assert rows["all"]["above_threshold"]["value"] == 0.5
    assert rows["hard"]["count"] == 1
    assert rows["hard"]["above_threshold"]["value"] == 1
    assert rows["ohem"]["count"] == 4
    assert rows["ohem"]["above_threshold"]["value"] == 0.75
    assert rows["loss_weighted"]["above_threshold"]["value"] == pytest.approx(
        (1 + 1.8) / (0.9 + 0.9 + 1 + 1.8), abs=1e-6
    )
    assert rows["random"]["count"] == 4


def test_ious_of_sampled_positives():
    # Three positives below the middle of 0.5 and 1, one at it, which counts as below, and one above; one negative.
    gt, iou = [[0, 0, 0, 0, 0, NEGATIVE]], [[0.52, 0.55, 0.7, 0.75, 0.98, 0.3]]
    ious = statistics_of(make_candidates(gt, iou, [[1.0] * 6]), [[True]], size=10, fraction=1.0)["positive_ious"]
    assert ious["count"] == 5
    assert ious["middle"] == 0.75
    assert ious["below"]["value"] == pytest.approx(0.8)
    assert ious["shares"][10] == pytest.approx(0.4)  # (0.5, 0.55]
    assert ious["shares"][19] == pytest.approx(0.2)


def test_middle_of_positives_above_another_threshold():
    # The middle of 0.6 and 1 is 0.8; that of 0.55 and 1, 0.775, is no edge of the bins.
    candidates = make_candidates([[0, 0, 0, 0]], [[0.62, 0.7755, 0.79, 0.98]], [[1.0] * 4])
    for threshold, below in ((0.6, 0.75), (0.55, 0.25)):
        ious = statistics_of(candidates, [[True]], size=10, fraction=1.0, threshold=threshold)["positive_ious"]
        assert ious["middle"] == (threshold + 1) / 2
        assert ious["below"]["value"] == below


@pytest.mark.parametrize(
    ("sampling", "near"),
    [
        ({}, 40),
        ({"random_fraction": 0.5}, 20),
        ({"random_fraction": 0.5, "random_schedule": "linear"}, 20),
        ({"floor_fraction": 0.75, "floor_thr": 0.1}, 15),
    ],
)
def test_own_negatives_are_those_of_training(sampling, near):
    # Of 60 negatives, 40 overlap an object if they are IoU-balanced; hardly any of those drawn at random.
    iou = [[0.0] * 20000 + [0.2] * 100 + [0.4] * 100]
    candidates = make_candidates([[NEGATIVE] * 20200], iou, [[0.0] * 20200])
    result = statistics_of(candidates, [[True]], size=60, fraction=0.0, negatives="iou_balanced", **sampling)
    rows = result["negatives"]
    assert rows["iou_balanced_paper_3"]["above_threshold"]["value"] == pytest.approx(40 / 60)
    assert rows["own"]["above_threshold"]["value"] == pytest.approx(near / 60, abs=1.5 / 60)


def test_samples_as_trained_are_weighted_and_follow_the_score():
    stage = Stage("roi", "proposals", SamplingConfig(4, 0.0, negatives="iou_balanced"), 0.5, BoxLossConfig())
    candidates = make_candidates([[NEGATIVE] * 60], [[0.0] * 58 + [0.2, 0.4]], [[0.0] * 60])
    assert sample_as_trained(stage, candidates, 1, seed=0).weight is None
    weighted = replace(stage, sampling=replace(stage.sampling, reweight_exponent=1.0))
    assert sample_as_trained(weighted, candidates, 1, seed=0).weight is not None
    by_score = replace(stage.sampling, floor_fraction=1.0, floor_thr=0.1, background_sampling="score_balanced")
    candidates = candidates._replace(scores=torch.tensor([[0.0] * 57 + [0.9] * 3]))
    samples = sample_as_trained(replace(stage, sampling=by_score), candidates, 1, seed=0)
    assert 57 in samples.index, "the only background of a high score"


def test_hard_negatives_are_no_more_than_are_sampled():
    candidates = make_candidates([[NEGATIVE] * 200], [[0.0] * 200], [np.linspace(0, 1, 200).tolist()])
    assert statistics_of(candidates, [[True]], size=4)["negatives"]["hard"]["count"] == 4


def test_equal_shares_of_bins_and_the_gap():
    # One negative of each third of [0, 0.5) is chosen, though nearly all have IoU 0; the hard one overlaps.
    iou = [[0.0] * 98 + [0.2, 0.4]]
    loss = [[0.0] * 99 + [1.0]]
    result = statistics_of(make_candidates([[NEGATIVE] * 100], iou, loss), [[True]], size=3, fraction=0.0)
    assert result["negatives"]["iou_balanced_paper_3"]["above_threshold"]["value"] == pytest.approx(2 / 3)
    assert result["negatives"]["iou_balanced_paper_2"]["count"] == 3
    hard, random = (
        result["negatives"]["hard"]["above_threshold"]["value"],
        result["negatives"]["random"]["above_threshold"]["value"],
    )
    assert result["gap"]["value"] == pytest.approx(hard - random)


def test_frequencies_of_random_sampling_over_many_images():
    iou = [[0.0] * 70 + [0.3] * 30] * 400
    result = statistics_of(make_candidates([[NEGATIVE] * 100] * 400, iou, [[0.0] * 100] * 400), [[True]] * 400, 10, 0.0)
    above = result["negatives"]["random"]["above_threshold"]
    assert above["value"] == pytest.approx(0.3, abs=0.02)
    assert above["low"] < 0.3 < above["high"]
    assert above["high"] - above["low"] < 0.05


def test_ignored_candidates_do_not_count():
    candidates = make_candidates([[IGNORED, NEGATIVE, 0]], [[0.45, 0.1, 0.9]], [[9.0, 1.0, 1.0]])
    result = statistics_of(candidates, [[True]])
    assert result["negatives"]["all"]["count"] == 1
    assert result["positives"]["by_sampler"]["available"]["total"] == 1


def test_positives_of_each_object():
    # Object 0 has eight candidates, object 1 two, object 2 none; object 3 is padding.
    gt = [[0] * 8 + [1] * 2]
    candidates = make_candidates(gt, [[0.8] * 10], [[0.0] * 10])
    result = statistics_of(candidates, [[True, True, True, False]], size=8)["positives"]
    assert result["objects"] == 3
    assert result["images_with_choice"] == 1
    available, even = result["by_sampler"]["available"], result["by_sampler"]["instance_balanced"]
    assert (available["total"], available["mean"], available["median"]) == (10, pytest.approx(10 / 3), 2)
    assert available["without"] == pytest.approx(1 / 3)
    assert available["histogram"][0] == available["histogram"][2] == available["histogram"][8] == pytest.approx(1 / 3)
    assert even["total"] == 4
    assert even["histogram"][2] == pytest.approx(2 / 3), "four slots: two for each object that has candidates"
    assert result["by_sampler"]["random"]["total"] == 4


def test_where_all_positives_fit_samplers_agree():
    candidates = make_candidates([[0, 0, 1]], [[0.8] * 3], [[0.0] * 3])
    result = statistics_of(candidates, [[True, True]], size=16)["positives"]
    assert result["images_with_choice"] == 0
    assert len({str(row) for row in result["by_sampler"].values()}) == 1


def test_dense_heads_sample_no_positives():
    candidates = make_candidates([[0, NEGATIVE]], [[0.8, 0.1]], [[0.1, 0.1]])
    result = statistics_of(candidates, [[True]], key="retinanet")
    assert list(result["positives"]["by_sampler"]) == ["available"]
    assert not result["uses_sampling"]


def test_counts_per_object():
    counts = count_per_object(torch.tensor([[0, 2, 2, -1]]), torch.tensor([[True, True, True, False]]), 4)
    assert counts.tolist() == [[1, 0, 2, 0]]


@pytest.mark.parametrize(
    ("counts", "part", "share"),
    [([1] * 10, 0.1, 0.1), ([9, 1, 0, 0], 0.25, 0.9), ([5, 5], 0.1, 0.1), ([3, 1], 0.75, (3 + 0.5) / 4)],
)
def test_share_of_the_objects_with_the_most(counts, part, share):
    assert top_share(np.array(counts), part) == pytest.approx(share)


def test_positives_by_size_of_the_object():
    numbers = summarize_positives(np.array([1, 3, 5, 7]), np.array([100.0, 200.0, 32.0**2, 96.0**2]))
    assert (numbers["small"], numbers["medium"], numbers["large"]) == (2, 5, 7)
    assert summarize_positives(np.array([1]), np.array([1.0]))["large"] is None


def test_no_objects_at_all():
    result = statistics_of(make_candidates([[NEGATIVE]], [[0.0]], [[0.1]]), [[False]])["positives"]
    assert result["objects"] == 0
    assert result["by_sampler"]["random"]["total"] == 0
