import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from overlapping import candidates
from suppression_loops import guided_nms

from libradet.geometry.guided_suppression import _guided_suppress, guided_suppress
from libradet.geometry.suppression import suppress


def guided(number=60, groups=3, seed=0, device="cpu"):
    """Candidates and the quality of each, distinct and independent of its score."""
    boxes, scores, group, valid = candidates(number=number, groups=groups, seed=seed)
    g = torch.Generator().manual_seed(seed + 7)
    quality = torch.stack([torch.randperm(number, generator=g) for _ in range(2)]) / max(number, 1)
    return tuple(t.to(device) for t in (boxes, scores, quality, group, valid))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 4), st.sampled_from([0.1, 0.5, 0.9, 1.0]), st.integers(1, 80))
def test_survivors_are_those_of_the_papers_algorithm(seed, groups, threshold, size):
    tensors = guided(groups=groups, seed=seed)
    rows, inherited, filled = guided_suppress(*tensors, threshold=threshold, size=size)
    assert rows.shape == inherited.shape == filled.shape == (2, size)
    for b in range(2):
        expected = guided_nms(*(t[b].tolist() for t in tensors), threshold, size)
        assert list(zip(rows[b][filled[b]].tolist(), inherited[b][filled[b]].tolist(), strict=True)) == expected
        assert not rows[b][~filled[b]].any()
        assert filled[b].long().diff().le(0).all()


def test_the_better_box_stays_and_has_the_better_score():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [1, 1, 11, 11], [50, 50, 60, 60]]])
    scores, quality = torch.tensor([[0.9, 0.4, 0.6]]), torch.tensor([[0.5, 0.8, 0.1]])
    group, everywhere = torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool)
    rows, inherited, filled = guided_suppress(boxes, scores, quality, group, everywhere, threshold=0.5, size=4)
    assert rows[filled].tolist() == [1, 2]
    assert inherited[filled].tolist() == pytest.approx([0.9, 0.6])
    rows, inherited, filled = guided_suppress(
        boxes, scores, quality, torch.tensor([[0, 1, 0]]), everywhere, threshold=0.5, size=4
    )
    assert rows[filled].tolist() == [0, 2, 1]


def test_guided_by_scores_it_is_ordinary_suppression():
    boxes, scores, _, group, valid = guided(seed=3)
    rows, inherited, filled = guided_suppress(boxes, scores, scores, group, valid, threshold=0.4, size=30)
    same = suppress(boxes, scores, group, valid, threshold=0.4, size=30)
    assert torch.equal(rows, same[0])
    assert torch.equal(filled, same[1])
    assert torch.equal(inherited[filled], scores.gather(1, rows)[filled])


def test_of_equal_scores_the_earlier_row_comes_first_whatever_its_group():
    boxes = torch.tensor([[0.0, 0, 9, 9], [50, 0, 59, 9], [0, 50, 9, 59]])[None]
    ones, everywhere = torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool)
    rows, _, filled = guided_suppress(boxes, ones, ones, torch.tensor([[2, 0, 1]]), everywhere, threshold=0.5, size=4)
    assert rows[filled].tolist() == [0, 1, 2]


def test_nothing_gives_nothing():
    boxes, scores, quality, group, valid = guided()
    for some in (guided(number=0), (boxes, scores, quality, group, torch.zeros_like(valid))):
        rows, inherited, filled = guided_suppress(*some, threshold=0.5, size=7)
        assert rows.shape == (2, 7)
        assert not any(t.any() for t in (rows, inherited, filled))


def test_operator_is_well_formed():
    torch.library.opcheck(_guided_suppress, (*guided(), 0.5, 20))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_agrees_with_cpu():
    here, there = guided(number=500, groups=20), guided(number=500, groups=20, device="cuda")
    for ours, theirs in zip(
        guided_suppress(*here, threshold=0.5, size=100), guided_suppress(*there, threshold=0.5, size=100), strict=True
    ):
        torch.testing.assert_close(ours, theirs.cpu())
