import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libradet.balance import iou_balanced_priority, sampling
from libradet.balance.iou_bins import bins_of_iou, prioritize_bins, prioritize_sparse_bins

NUMBER, LARGEST, MAX_IOU = 3000 + 7, 10, 0.3


def scene(seed, near_blocks=6, levels=None, candidates=0.9):
    """Keys, candidates and IoUs: most in the first bin, others (also at bounds of bins) in a few neighborhoods."""
    g = torch.Generator().manual_seed(seed)
    key, iou = torch.rand(2, NUMBER, generator=g), 0.09 * torch.rand(2, NUMBER, generator=g)
    bounds = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.09999, 0.1 - 1e-8, 0.2 - 2e-8, 0.7])
    for image in range(2):
        for start in torch.randint(NUMBER, (near_blocks,), generator=g).tolist():
            part = iou[image, start : start + 20]
            at_bound = bounds[torch.randint(len(bounds), part.shape, generator=g)]
            part.copy_(torch.where(torch.rand(part.shape, generator=g) < 0.5, at_bound, part * 5))
    if levels:  # Equal keys are frequent.
        key = (key * levels).floor() / levels
    negatives = (torch.rand(2, NUMBER, generator=g) < candidates) & (iou < MAX_IOU)
    return key, negatives, iou


def in_general(key, candidates, iou, share):
    num_bins = share.shape[1]
    bins = torch.where(candidates, bins_of_iou(iou, num_bins, MAX_IOU), num_bins + 1.0)
    return torch.where(candidates, prioritize_bins(key, key, bins, share, LARGEST).priority, -torch.inf)


@pytest.mark.parametrize("share", [[4, 3, 10], [0, 1, 2], [10, 10, 10]])
def test_shares_come_first_and_other_keys_are_rescaled(share):
    key, candidates, iou = (x[:1] for x in scene(0))
    priority = in_general(key, candidates, iou, torch.tensor([share]))[0]
    bins = bins_of_iou(iou, 3, MAX_IOU)[0]
    assert torch.equal(priority == -torch.inf, ~candidates[0])
    for k, number in enumerate(share):
        members = ((bins == k) & candidates[0]).nonzero().squeeze(1)
        order = members[key[0, members].argsort(descending=True)]
        first, rest = order[:number], order[number:]
        last = key[0, first[-1]] if number else 1.0
        assert torch.allclose(priority[first], key[0, first] + 3)
        assert torch.allclose(priority[rest], key[0, rest] / last)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 9999),
    st.sampled_from([0, 1, 6, 12]),
    st.sampled_from([None, None, 1000, 20]),
    st.sampled_from([0.0, 0.001, 0.5, 1.0]),
    st.lists(st.lists(st.integers(0, LARGEST), min_size=3, max_size=3), min_size=2, max_size=2),
)
def test_sparse_bins_have_the_same_priorities_bit_for_bit(seed, near_blocks, levels, candidates, share):
    key, candidates, iou = scene(seed, near_blocks, levels, candidates)
    share = torch.tensor(share)
    sparse = prioritize_sparse_bins(key, candidates, iou, share, LARGEST, MAX_IOU)
    if sparse is None:
        # Without it, the choice among equal keys would depend on the order of computation.
        pairs = zip(key, candidates, bins_of_iou(iou, 3, MAX_IOU), strict=True)
        assert any(len(k[c & (b == i)].unique()) < (c & (b == i)).sum() for k, c, b in pairs for i in range(3))
    else:
        assert torch.equal(sparse, in_general(key, candidates, iou, share))


def test_equal_keys_at_the_end_of_a_share_are_left_to_the_general_form():
    key, candidates, iou = scene(3)
    share = torch.tensor([[4, 3, 3], [4, 3, 3]])
    assert prioritize_sparse_bins(key, candidates, iou, share, LARGEST, MAX_IOU) is not None
    first_bin = (bins_of_iou(iou, 3, MAX_IOU)[1] == 0) & candidates[1]
    order = torch.where(first_bin, key[1], -1).argsort(descending=True)
    key[1, order[4]] = key[1, order[3]]
    assert prioritize_sparse_bins(key, candidates, iou, share, LARGEST, MAX_IOU) is None


def test_many_candidates_near_objects_are_left_to_the_general_form():
    key, candidates, iou = scene(4)
    share = torch.full((2, 3), 3)
    assert prioritize_sparse_bins(key, candidates, (iou * 2.5).clamp(max=0.29), share, LARGEST, MAX_IOU) is None


@pytest.mark.parametrize("count", [30, torch.tensor([7, 29])], ids=["one count", "count per image"])
def test_many_candidates_get_the_priorities_of_few(monkeypatch, count):
    _, candidates, iou = scene(5)
    used = []
    compute = prioritize_sparse_bins
    monkeypatch.setattr(sampling, "prioritize_sparse_bins", lambda *a: used.append(compute(*a)) or used[-1])

    def draw():
        g = torch.Generator().manual_seed(1)
        return iou_balanced_priority(candidates, iou, count, 3, MAX_IOU, generator=g, size=30)

    expected = draw()
    assert not used
    monkeypatch.setattr(sampling, "MIN_FOR_SPARSE", 1000)
    assert torch.equal(draw(), expected)
    assert used[0] is not None
