"""Samplers that keep a share of the negatives for the background, and weights that undo a sampler's shares."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from libradet.balance import background_share_priority, iou_balanced_priority, select, stratification_weights
from libradet.geometry.matching import NEGATIVE, Matches
from libradet.models.config import SamplingConfig
from libradet.models.sampling import sample

DRAWS = 3000
SIZES = [90, 24, 12]  # negatives of each IoU bin
BIN = torch.cat([torch.full((n,), k) for k, n in enumerate(SIZES)])
IOU = torch.cat([(k + (torch.arange(n) + 0.5) / n) / 6 for k, n in enumerate(SIZES)])


def sample_many(config, iou=IOU):
    """Return how many samples each of DRAWS images has in every bin, and the samples."""
    matches = Matches(torch.full((DRAWS, len(iou)), NEGATIVE), iou.expand(DRAWS, -1))
    samples = sample(matches, 1, config, 0.5)
    assert samples.valid.sum(1).eq(min(config.batch_size_per_image, len(iou))).all()
    bins = torch.nn.functional.one_hot(BIN[samples.index], len(SIZES)) * samples.valid[..., None]
    return bins.sum(1), samples


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 1.0])
def test_random_share_is_drawn_from_all_that_the_bins_leave(fraction):
    torch.manual_seed(0)
    config = SamplingConfig(24, 0.0, negatives="iou_balanced", random_fraction=fraction)
    counts, _ = sample_many(config)
    balanced = int(24 * (1 - fraction))
    rest = 24 - balanced
    left = [n - balanced / 3 for n in SIZES]
    for k, n in enumerate(left):
        # Hypergeometric: of sum(left) candidates, `rest` are drawn.
        p = n / sum(left)
        mean = balanced / 3 + rest * p
        spread = (rest * p * (1 - p) / DRAWS) ** 0.5
        assert abs(counts[:, k].double().mean() - mean) <= norm.isf(1e-5) * spread + 1e-9
        assert (counts[:, k] >= balanced // 3).all()


@pytest.mark.parametrize("floor_fraction", [0.25, 0.5])
def test_floor_share_is_drawn_below_the_threshold_and_the_rest_is_balanced_above(floor_fraction):
    torch.manual_seed(0)
    config = SamplingConfig(
        24, 0.0, negatives="iou_balanced", num_bins=2, floor_thr=1 / 6, floor_fraction=floor_fraction
    )
    counts, samples = sample_many(config)
    floor = 24 - int(24 * (1 - floor_fraction))
    assert (counts == torch.tensor([floor, (24 - floor) // 2, (24 - floor) // 2])).all()
    per_candidate = torch.bincount(samples.index[samples.valid], minlength=len(IOU))[BIN == 0]
    p = floor / SIZES[0]
    assert (per_candidate / DRAWS - p).abs().max() <= norm.isf(1e-6) * (p * (1 - p) / DRAWS) ** 0.5


def test_either_side_of_the_floor_fills_the_slots_that_the_other_leaves():
    for iou, below in ((torch.full((1, 40), 0.01), 20), (torch.full((1, 40), 0.3), 0)):
        priority = background_share_priority(torch.ones(1, 40, dtype=torch.bool), iou, torch.tensor([20]), 20, 0.1, 0.5)
        index, filled = select(priority, 20, 20)
        assert filled.all()
        assert (iou[0][index] < 0.1).sum() == below


def test_floor_at_zero_is_a_share_of_boxes_without_overlap():
    torch.manual_seed(0)
    iou = torch.cat([torch.zeros(50), torch.linspace(0.01, 0.49, 50)])
    for bins in ("paper", "mmdet"):
        config = SamplingConfig(20, 0.0, negatives="iou_balanced", bins=bins, floor_fraction=0.3)
        matches = Matches(torch.full((5, 100), NEGATIVE), iou.expand(5, -1))
        samples = sample(matches, 1, config, 0.5)
        assert (iou[samples.index] == 0).sum(1).tolist() == [6] * 5


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**31), st.integers(1, 60), st.floats(0.05, 1.0), st.floats(0.0, 0.4))
def test_floor_selects_as_many_as_there_are_and_only_candidates(seed, count, fraction, threshold):
    g = torch.Generator().manual_seed(seed)
    candidates, iou = torch.rand(3, 40, generator=g) < 0.7, torch.rand(3, 40, generator=g) / 2
    priority = background_share_priority(
        candidates, iou, torch.tensor([count] * 3), count, threshold, fraction, generator=g
    )
    index, filled = select(priority, count, count)
    assert (filled.sum(1) == candidates.sum(1).clamp(max=count)).all()
    assert candidates.gather(1, index)[filled].all()


def test_a_lower_end_leaves_no_sample_below_it_while_there_are_others():
    iou = torch.linspace(0, 0.49, 300)[None]
    priority = iou_balanced_priority(torch.ones_like(iou, dtype=torch.bool), iou, 30, min_iou=0.2)
    index, _ = select(priority, 30, 30)
    counts = torch.histc(iou[0][index[0]], 3, 0.2, 0.5)
    assert counts.tolist() == [10, 10, 10]


def test_weights_are_ratios_of_shares_with_mean_one():
    candidate_bins, sample_bins = BIN[None], torch.tensor([[0] * 8 + [1] * 8 + [2] * 8 + [0] * 4])
    is_sample = torch.arange(28)[None] < 24
    everyone = torch.ones_like(candidate_bins, dtype=torch.bool)
    for exponent in (0.0, 0.5, 1.0):
        weight = stratification_weights(sample_bins, is_sample, candidate_bins, everyone, 3, exponent)
        expected = torch.tensor([90.0, 24.0, 12.0]).pow(exponent)
        expected = expected / expected.mean()
        torch.testing.assert_close(weight[0, :24], expected.repeat_interleave(8))
        assert (weight[0, 24:] == 1).all()  # no samples


def test_weighted_loss_estimates_the_mean_over_all_candidates():
    """Post-stratification: unbiased with an exponent of 1, biased to the bins of few candidates with 0."""
    torch.manual_seed(0)
    loss = torch.rand(len(IOU)) + BIN
    means = {}
    for exponent in (1.0, 0.0):
        config = SamplingConfig(24, 0.0, negatives="iou_balanced", reweight_exponent=exponent)
        _, samples = sample_many(config)
        weight = 1.0 if samples.weight is None else samples.weight
        means[exponent] = (weight * loss[samples.index]).mean(1)
    spread = means[1.0].std() / DRAWS**0.5
    assert abs(means[1.0].mean() - loss.mean()) < norm.isf(1e-5) * spread
    assert means[0.0].mean() - loss.mean() > 0.3


def test_positives_weigh_one():
    torch.manual_seed(0)
    gt = torch.full((1, 60), NEGATIVE)
    gt[0, :10] = 0
    iou = torch.where(gt >= 0, 0.8, torch.rand(1, 60) / 2)
    config = SamplingConfig(16, 0.25, negatives="iou_balanced", reweight_exponent=1.0)
    samples = sample(Matches(gt, iou), 1, config, 0.5)
    assert (samples.weight[samples.positive] == 1).all()
    assert samples.positive.sum() == 4
    assert abs(samples.weight[~samples.positive].mean() - 1) < 1e-5


def test_background_by_score_takes_equally_many_of_each_interval():
    torch.manual_seed(0)
    # Most of the background resembles nothing: 70 of 90 scores are below a third.
    score = torch.cat([torch.linspace(0, 0.33, 70), torch.linspace(0.34, 0.66, 12), torch.linspace(0.67, 1, 8)])
    score = torch.cat([score, torch.full((36,), 0.9)])
    config = SamplingConfig(
        24, 0.0, negatives="iou_balanced", floor_thr=1 / 6, floor_fraction=0.5, background_sampling="score_balanced"
    )
    matches = Matches(torch.full((200, len(IOU)), NEGATIVE), IOU.expand(200, -1))
    samples = sample(matches, 1, config, 0.5, score=score.expand(200, -1))
    below = BIN[samples.index] == 0
    interval = (score[samples.index] * 3).floor().clamp(max=2)
    for k in range(3):
        assert ((interval == k) & below).sum(1).eq(4).all()
    # Within an interval, all are drawn equally often.
    per_candidate = torch.bincount(samples.index.flatten(), minlength=len(IOU))[:70] / 200
    assert (per_candidate - 4 / 70).abs().max() < norm.isf(1e-6) * (4 / 70 / 200) ** 0.5


@pytest.mark.parametrize(("progress", "balanced"), [(0.0, 0), (0.5, 9), (1.0, 18)])
def test_a_schedule_moves_from_random_to_balanced(progress, balanced):
    torch.manual_seed(0)
    config = SamplingConfig(24, 0.0, negatives="iou_balanced", random_fraction=0.25, random_schedule="linear")
    matches = Matches(torch.full((DRAWS, len(IOU)), NEGATIVE), IOU.expand(DRAWS, -1))
    samples = sample(matches, 1, config, 0.5, progress=torch.tensor(progress))
    counts = torch.nn.functional.one_hot(BIN[samples.index], len(SIZES)).sum(1)
    left = [n - balanced / 3 for n in SIZES]
    for k, n in enumerate(left):
        p = n / sum(left)
        spread = ((24 - balanced) * p * (1 - p) / DRAWS) ** 0.5
        assert abs(counts[:, k].double().mean() - balanced / 3 - (24 - balanced) * p) <= norm.isf(1e-5) * spread
        assert (counts[:, k] >= balanced // 3).all()
