import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, norm

from libradet.balance import (
    instance_balanced_priority,
    iou_balanced_priority,
    ohem_priority,
    random_priority,
    select,
)

DRAWS = 4000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def selection_counts(priority, count, size=None):
    """Count how often each candidate is selected, over rows that are independent draws."""
    size = count if size is None else size
    index, filled = select(priority, count, size)
    return torch.zeros(priority.shape[1]).scatter_add_(0, index.flatten(), filled.flatten().float()).numpy()


def assert_frequency(selected, p, total_variance=0.0):
    """Check counts ``selected`` out of DRAWS of a group, all members of probability ``p``, by a chi-square test.

    ``total_variance`` is that of the number selected from the group in one draw: 0 for a fixed quota. Within
    a group, members are exchangeable, which gives their covariance, by which chi-square is corrected.
    """
    m = len(selected)
    spread = np.sqrt(DRAWS * total_variance)
    assert abs(selected.sum() - DRAWS * m * p) <= norm.isf(1e-5) * spread + 1e-6 * DRAWS
    if m > 1 and 0 < p < 1:
        variance = p * (1 - p)
        covariance = (total_variance - m * variance) / (m * (m - 1))
        statistic = ((selected - selected.mean()) ** 2).sum() / (DRAWS * (variance - covariance))
        assert 1e-5 < chi2.sf(statistic, m - 1) < 1 - 1e-5


def bins_of(sizes, num_bins, max_iou=0.5):
    """IoUs spread over the inside of each bin, and the bin of each."""
    width = max_iou / num_bins
    iou = [width * (k + (torch.arange(n) + 0.5) / n) for k, n in enumerate(sizes)]
    return torch.cat(iou), torch.cat([torch.full((n,), k) for k, n in enumerate(sizes)])


def many(row):
    return row.expand(DRAWS, -1)


# select


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=1, max_size=4),
    st.integers(0, 12),
    st.integers(1, 12),
    st.integers(0, 99),
)
def test_select_returns_the_best_candidates_once(candidates, count, size, seed):
    candidates = torch.tensor(candidates)
    priority = random_priority(candidates, generator(seed))
    index, filled = select(priority, count, size)
    assert index.shape == filled.shape == (len(candidates), size)
    assert ((index >= 0) & (index < 9)).all()
    for b in range(len(candidates)):
        selected = index[b][filled[b]].tolist()
        want = min(count, size, int(candidates[b].sum()))
        assert len(selected) == len(set(selected)) == want
        assert selected == priority[b].argsort(descending=True)[:want].tolist()
        assert candidates[b][selected].all()


def test_select_with_a_count_per_image():
    priority = torch.rand(4, 10)
    _, filled = select(priority, torch.tensor([0, 3, 10, 99]), 6)
    assert filled.sum(1).tolist() == [0, 3, 6, 6]
    assert filled.long().diff(dim=1).le(0).all()


# random and OHEM


def test_random_selects_each_candidate_equally_often():
    candidates = torch.rand(50, generator=generator(5)) < 0.7
    selected = selection_counts(random_priority(many(candidates), generator(1)), 12)
    assert (selected[~candidates.numpy()] == 0).all()
    assert_frequency(selected[candidates.numpy()], 12 / int(candidates.sum()))


def test_ohem_selects_the_largest_losses():
    loss = torch.tensor([[0.1, 5.0, 3.0, 9.0, float("inf")]], requires_grad=True)
    candidates = torch.tensor([[True, True, True, False, True]])
    index, filled = select(ohem_priority(candidates, loss), 3, 4)
    assert index[filled].tolist() == [4, 1, 2]


# IoU-balanced, the paper's


@pytest.mark.parametrize("num_bins", [2, 3, 5])
@pytest.mark.parametrize("count", [30, 32])
def test_frequency_matches_the_papers_equation(num_bins, count):
    """p_k = N/K * 1/M_k (equation 1), where every bin holds enough, whether or not K divides N."""
    sizes = [90, 20, 31, 17, 60][:num_bins]
    iou, which = bins_of(sizes, num_bins)
    priority = iou_balanced_priority(
        torch.ones(DRAWS, len(iou), dtype=torch.bool), many(iou), count, num_bins, generator=generator(2)
    )
    selected = selection_counts(priority, count)
    part = count / num_bins - count // num_bins
    assert selected.sum() == DRAWS * count
    for k, size in enumerate(sizes):
        assert_frequency(selected[which == k], count / num_bins / size, part * (1 - part))


@pytest.mark.parametrize("num_bins", [2, 3, 5])
@pytest.mark.parametrize("count", [30, 31, 34])
def test_each_bin_fills_its_quota_in_every_draw(num_bins, count):
    sizes = [40, 20, 31, 17, 60][:num_bins]
    iou, which = bins_of(sizes, num_bins)
    iou = iou.expand(50, -1)
    priority = iou_balanced_priority(
        torch.ones_like(iou, dtype=torch.bool), iou, count, num_bins, generator=generator()
    )
    index, filled = select(priority, count, count)
    assert filled.all()
    quotas = torch.nn.functional.one_hot(which[index], num_bins).sum(1)
    assert ((quotas == count // num_bins) | (quotas == -(-count // num_bins))).all()
    assert (quotas.sum(1) == count).all()
    # What K does not divide goes to bins drawn at random.
    if count % num_bins:
        assert (quotas.float().mean(0) - count / num_bins).abs().max() < 0.3


def test_slots_of_a_short_bin_are_filled_at_random_from_the_rest():
    """All of the short bin are selected; the missing ones are spread evenly over the rest of the other bins."""
    sizes = [200, 40, 4]
    iou, which = bins_of(sizes, 3)
    priority = iou_balanced_priority(
        torch.ones(DRAWS, len(iou), dtype=torch.bool), many(iou), 30, 3, generator=generator(3)
    )
    selected = selection_counts(priority, 30)
    assert (selected[which == 2] == DRAWS).all()
    rest = {0: 200 - 10, 1: 40 - 10}
    missing, left = 6, sum(rest.values())
    for k, remaining in rest.items():
        share = missing * remaining / left
        variance = share * (1 - remaining / left) * (left - missing) / (left - 1)
        assert_frequency(selected[which == k], (10 + share) / sizes[k], variance)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=14, max_size=14), min_size=1, max_size=3),
    st.integers(0, 20),
    st.sampled_from([1, 2, 3, 5]),
    st.sampled_from(["paper", "mmdet"]),
    st.integers(0, 99),
)
def test_iou_balanced_selects_as_many_as_possible(rows, count, num_bins, bins, seed):
    iou = torch.tensor([[x for x, _ in row] for row in rows])
    candidates = torch.tensor([[c for _, c in row] for row in rows])
    priority = iou_balanced_priority(candidates, iou, count, num_bins, 0.5, bins, generator(seed))
    index, filled = select(priority, count, 20)
    for b in range(len(rows)):
        selected = index[b][filled[b]].tolist()
        assert len(selected) == len(set(selected)) == min(count, int(candidates[b].sum()))
        assert candidates[b][selected].all()


def test_iou_balanced_with_a_count_per_image():
    iou, which = bins_of([20, 20, 20], 3)
    counts = torch.tensor([0, 3, 30, 60, 99])
    priority = iou_balanced_priority(
        torch.ones(5, 60, dtype=torch.bool), iou.expand(5, -1), counts, generator=generator()
    )
    index, filled = select(priority, counts, 60)
    assert filled.sum(1).tolist() == [0, 3, 30, 60, 60]
    for b, quota in ((1, 1), (2, 10)):
        assert which[index[b][filled[b]]].bincount(minlength=3).tolist() == [quota] * 3


def test_images_are_sampled_independently():
    """Two images with the same candidates share as many samples as independent draws do."""
    iou, _ = bins_of([20, 20, 20], 3)
    for priority in (
        random_priority(torch.ones(DRAWS, 60, dtype=torch.bool), generator(4)),
        iou_balanced_priority(torch.ones(DRAWS, 60, dtype=torch.bool), many(iou), 12, generator=generator(4)),
        instance_balanced_priority(
            torch.ones(DRAWS, 60, dtype=torch.bool), many(torch.arange(60) // 20), 3, generator(4)
        ),
    ):
        index, _ = select(priority, 12, 12)
        selected = torch.zeros(DRAWS, 60).scatter_(1, index, 1.0)
        shared = (selected[0::2] * selected[1::2]).sum(1)
        # 12 of 60 each, so 12²/60 in common; its variance is at most that of a hypergeometric number.
        spread = np.sqrt(12 * 0.2 * 0.8 / len(shared))
        assert abs(shared.mean().item() - 12 * 12 / 60) < 4.5 * spread


@pytest.mark.parametrize("kind", ["random", "iou_balanced", "mmdet", "instance_balanced"])
def test_sampling_is_deterministic_with_a_generator(kind):
    iou, which = bins_of([20, 20, 20], 3)
    iou, which = iou.expand(4, -1), which.expand(4, -1)
    every = torch.ones_like(which, dtype=torch.bool)

    def draw(seed):
        g = None if seed is None else generator(seed)
        return {
            "random": lambda: random_priority(every, g),
            "iou_balanced": lambda: iou_balanced_priority(every, iou, 10, generator=g),
            "mmdet": lambda: iou_balanced_priority(every, iou, 10, bins="mmdet", generator=g),
            "instance_balanced": lambda: instance_balanced_priority(every, which, 3, g),
        }[kind]()

    torch.manual_seed(1)
    first = draw(7)
    torch.manual_seed(2)
    assert torch.equal(first, draw(7))
    assert not torch.equal(first, draw(8))
    torch.manual_seed(3)
    unseeded = draw(None)
    assert not torch.equal(unseeded, draw(None))
    torch.manual_seed(3)
    assert torch.equal(unseeded, draw(None))


# IoU-balanced, mmdetection's


@pytest.mark.parametrize("case", ["neg_only", "pos", "pos_gt"])
@pytest.mark.parametrize("num_bins", [2, 3, 5])
@pytest.mark.parametrize("count", [128, 384])
def test_frequency_matches_mmdetections_reused_sampler(parity, case, num_bins, count):
    z = parity("iou_balanced_sampler")
    theirs, draws = z[f"{case}.bins{num_bins}.want{count}.reused.count"].numpy() / int(z["draws"]), 1500
    iou, negative = z[f"{case}.max_overlaps"].expand(draws, -1), z[f"{case}.gt_inds"].expand(draws, -1) == 0
    ours = (
        selection_counts(iou_balanced_priority(negative, iou, count, num_bins, 0.5, "mmdet", generator(6)), count)
        / draws
    )
    certain = (theirs == 0) | (theirs == 1)
    np.testing.assert_array_equal(ours[certain], theirs[certain])
    p, q = ours[~certain], theirs[~certain]
    z_score = (p - q) / np.sqrt(p * (1 - p) / draws + q * (1 - q) / int(z["draws"]))
    assert np.abs(z_score).max() < 5
    # Independent squares of normal numbers average 1 ± √(2/n).
    assert abs((z_score**2).mean() - 1) < 5 * np.sqrt(2 / len(z_score))


def test_mmdet_bins_extend_to_the_largest_iou_of_all():
    """With a positive at IoU 1, three bins end at 1/3, 2/3 and 1, so the third is empty for negatives."""
    iou = torch.cat([torch.linspace(0.01, 0.32, 100), torch.linspace(0.34, 0.49, 20), torch.ones(1)])
    negative = iou < 0.5
    priority = iou_balanced_priority(many(negative), many(iou), 30, 3, 0.5, "mmdet", generator(7))
    selected = selection_counts(priority, 30)
    assert selected[-1] == 0
    # 10 from each of the first two bins; the 10 missing at random from 90 + 10 left.
    for members, expected in ((slice(0, 100), 10 + 9), (slice(100, 120), 10 + 1)):
        variance = 10 * 0.9 * 0.1 * 90 / 99
        assert_frequency(selected[members], expected / len(iou[members]), variance)


def test_mmdet_bins_use_zero_iou_only_to_fill():
    iou = torch.cat([torch.zeros(50), torch.linspace(0.01, 0.49, 20)]).expand(20, -1)
    every = torch.ones_like(iou, dtype=torch.bool)
    for count, zeros in ((10, 0), (20, 0), (25, 5)):
        index, filled = select(iou_balanced_priority(every, iou, count, 3, 0.5, "mmdet", generator()), count, count)
        assert filled.all()
        assert ((index < 50).sum(1) == zeros).all()


# positives


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.integers(-2, 4), min_size=20, max_size=20),
    st.integers(0, 24),
    st.integers(0, 99),
)
def test_positives_are_balanced_over_ground_truths(gt, count, seed):
    gt = torch.tensor([gt])
    priority = instance_balanced_priority(gt >= 0, gt, 5, generator(seed))
    index, filled = select(priority, count, 24)
    selected = index[0][filled[0]].tolist()
    available = gt[gt >= 0].bincount(minlength=5)
    assert len(selected) == len(set(selected)) == min(count, int(available.sum()))
    assert (gt[0, selected] >= 0).all()
    number = gt[0, selected].bincount(minlength=5)
    for g in range(5):
        # Ground truths with few candidates have all selected; others differ by at most one.
        if number[g] < available[g]:
            assert number.max() <= number[g] + 1


def test_positives_and_ground_truths_are_equally_likely():
    sizes = [60, 12, 7]
    gt = torch.cat([torch.full((n,), g) for g, n in enumerate(sizes)])
    selected = selection_counts(instance_balanced_priority(many(gt >= 0), many(gt), 3, generator(8)), 10)
    for g, size in enumerate(sizes):
        # 3 of each, and one more of one that is drawn at random.
        assert_frequency(selected[(gt == g).numpy()], 10 / 3 / size, 1 / 3 * 2 / 3)


@pytest.mark.parametrize(("case", "count"), [("even", 128), ("even", 64), ("even", 32), ("two", 32), ("one", 64)])
def test_positives_per_ground_truth_match_mmdetection(parity, case, count):
    """Where no ground truth runs short, which is where theirs does what it says."""
    z = parity("instance_balanced_pos")
    gt = z[f"{case}.gt_inds"] - 1
    theirs = z[f"{case}.want{count}.per_gt_mean"]
    selected = selection_counts(instance_balanced_priority(many(gt >= 0), many(gt), len(theirs), generator(9)), count)
    ours = torch.stack([torch.from_numpy(selected)[gt == g].sum() / DRAWS for g in range(len(theirs))])
    torch.testing.assert_close(ours.double(), theirs, atol=0.06, rtol=0)


@pytest.mark.parametrize("count", [32, 64, 128])
def test_positives_are_never_fewer_than_mmdetections(parity, count):
    z = parity("instance_balanced_pos")
    gt = z["uneven.gt_inds"] - 1
    _, filled = select(instance_balanced_priority(gt[None] >= 0, gt[None], 5, generator()), count, count)
    assert int(filled.sum()) == min(count, int((gt >= 0).sum())) >= z[f"uneven.want{count}.unique"].max()
