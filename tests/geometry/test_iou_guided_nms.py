import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libradet.geometry.iou_guided_nms import _iou_guided_nms, iou_guided_nms
from libradet.geometry.nms import batched_nms
from tests.helpers.overlapping_boxes import candidates
from tests.helpers.reference_nms import reference_guided_nms


def guided(number=60, groups=3, seed=0, device="cpu"):
    """Candidates and the quality of each, distinct and independent of its score."""
    boxes, scores, group, valid = candidates(number=number, groups=groups, seed=seed)
    g = torch.Generator().manual_seed(seed + 7)
    quality = torch.stack([torch.randperm(number, generator=g) for _ in range(2)]) / max(number, 1)
    return tuple(t.to(device) for t in (boxes, scores, quality, group, valid))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 4), st.sampled_from([0.1, 0.5, 0.9, 1.0]), st.integers(1, 80))
def test_kept_boxes_match_the_papers_algorithm(seed, groups, threshold, size):
    tensors = guided(groups=groups, seed=seed)
    rows, inherited, filled = iou_guided_nms(*tensors, threshold=threshold, size=size)
    assert rows.shape == inherited.shape == filled.shape == (2, size)
    for b in range(2):
        expected = reference_guided_nms(*(t[b].tolist() for t in tensors), threshold, size)
        assert list(zip(rows[b][filled[b]].tolist(), inherited[b][filled[b]].tolist(), strict=True)) == expected
        assert not rows[b][~filled[b]].any()
        assert filled[b].long().diff().le(0).all()


def test_kept_box_inherits_the_highest_score():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [1, 1, 11, 11], [50, 50, 60, 60]]])
    scores, quality = torch.tensor([[0.9, 0.4, 0.6]]), torch.tensor([[0.5, 0.8, 0.1]])
    group, everywhere = torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool)
    rows, inherited, filled = iou_guided_nms(boxes, scores, quality, group, everywhere, threshold=0.5, size=4)
    assert rows[filled].tolist() == [1, 2]
    assert inherited[filled].tolist() == pytest.approx([0.9, 0.6])
    rows, inherited, filled = iou_guided_nms(
        boxes, scores, quality, torch.tensor([[0, 1, 0]]), everywhere, threshold=0.5, size=4
    )
    assert rows[filled].tolist() == [0, 2, 1]


def test_guided_by_scores_matches_batched_nms():
    boxes, scores, _, group, valid = guided(seed=3)
    rows, inherited, filled = iou_guided_nms(boxes, scores, scores, group, valid, threshold=0.4, size=30)
    same = batched_nms(boxes, scores, group, valid, threshold=0.4, size=30)
    assert torch.equal(rows, same[0])
    assert torch.equal(filled, same[1])
    assert torch.equal(inherited[filled], scores.gather(1, rows)[filled])


def test_equal_scores_are_sorted_by_row_across_groups():
    boxes = torch.tensor([[0.0, 0, 9, 9], [50, 0, 59, 9], [0, 50, 9, 59]])[None]
    ones, everywhere = torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool)
    rows, _, filled = iou_guided_nms(boxes, ones, ones, torch.tensor([[2, 0, 1]]), everywhere, threshold=0.5, size=4)
    assert rows[filled].tolist() == [0, 1, 2]


def test_no_valid_candidates():
    boxes, scores, quality, group, valid = guided()
    for some in (guided(number=0), (boxes, scores, quality, group, torch.zeros_like(valid))):
        rows, inherited, filled = iou_guided_nms(*some, threshold=0.5, size=7)
        assert rows.shape == (2, 7)
        assert not any(t.any() for t in (rows, inherited, filled))


def test_opcheck():
    torch.library.opcheck(_iou_guided_nms, (*guided(), 0.5, 20))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_matches_cpu():
    here, there = guided(number=500, groups=20), guided(number=500, groups=20, device="cuda")
    for ours, theirs in zip(
        iou_guided_nms(*here, threshold=0.5, size=100), iou_guided_nms(*there, threshold=0.5, size=100), strict=True
    ):
        torch.testing.assert_close(ours, theirs.cpu())
