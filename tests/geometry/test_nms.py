import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms as torchvision_batched_nms
from torchvision.ops import nms

from libradet.geometry.nms import _batched_nms, _grouped_nms, batched_nms
from tests.helpers.overlapping_boxes import candidates


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 4), st.sampled_from([0.1, 0.5, 0.9]), st.integers(1, 80))
def test_kept_boxes_match_torchvision(seed, groups, threshold, size):
    boxes, scores, group, valid = candidates(groups=groups, seed=seed)
    rows, filled = batched_nms(boxes, scores, group, valid, threshold=threshold, size=size)
    assert rows.shape == filled.shape == (2, size)
    for b in range(2):
        original = valid[b].nonzero().squeeze(1)
        # A shift, as torchvision tells groups apart by coordinates that it takes to be positive.
        theirs = torchvision_batched_nms(boxes[b, original] + 10, scores[b, original], group[b, original], threshold)
        assert rows[b][filled[b]].tolist() == original[theirs][:size].tolist()
        assert (rows[b][~filled[b]] == 0).all()
        assert filled[b].long().diff().le(0).all()


def test_plain_grouped_and_per_class_nms_match_mmdetection(parity):
    z = parity("nms")
    boxes, scores, everywhere = z["boxes"][None], z["scores"][None], torch.ones(1, 600, dtype=torch.bool)
    one_group = torch.zeros(1, 600, dtype=torch.int64)
    rows, filled = batched_nms(boxes, scores, one_group, everywhere, threshold=0.5, size=600)
    assert rows[filled].tolist() == z["nms_keep"].tolist()
    rows, filled = batched_nms(boxes, scores, z["idxs"][None], everywhere, threshold=0.5, size=600)
    assert rows[filled].tolist() == z["batched_keep"].tolist()
    scores = z["mc_scores_bg_last"][:, :-1].reshape(1, -1)
    boxes, labels = z["mc_boxes"].view(1, -1, 4), torch.arange(5).repeat(600)[None]
    rows, filled = batched_nms(boxes, scores, labels, scores > 0.05, threshold=0.5, size=100)
    assert filled.all()
    torch.testing.assert_close(torch.cat([boxes[0, rows[0]], scores[0, rows[0], None]], 1), z["mc_dets"])
    assert torch.equal(labels[0, rows[0]], z["mc_labels"])


def test_an_image_without_valid_candidates():
    boxes, scores, group, valid = candidates()
    valid[1] = False
    rows, filled = batched_nms(boxes, scores, group, valid, threshold=0.5, size=10)
    assert filled[0].any()
    assert not filled[1].any()
    assert (rows[1] == 0).all()


def test_equal_boxes_of_different_groups_are_kept():
    boxes = torch.tensor([-50.0, -50, -10, -10]).expand(1, 4, 4)
    scores = torch.tensor([[0.1, 0.4, 0.3, 0.2]])
    valid = torch.ones(1, 4, dtype=torch.bool)
    rows, filled = batched_nms(boxes, scores, torch.tensor([[0, 0, 1, 2]]), valid, threshold=0.5, size=4)
    assert rows[filled].tolist() == [1, 2, 3]


def test_small_boxes_of_high_class_numbers_are_compared_exactly():
    corners = torch.rand(100, 2, generator=torch.Generator().manual_seed(0)) * 4000
    boxes = torch.cat([corners, corners + 8], 1)
    boxes = torch.cat([boxes, boxes + torch.tensor([2.6, 0, 2.6, 0])])  # IoU 0.509
    scores, groups = torch.linspace(1, 0.1, 200), torch.full((200,), 1202)
    kept = _grouped_nms(boxes, scores, groups, 0.5)
    assert kept.tolist() == nms(boxes, scores, 0.5).tolist()


def test_equal_scores_are_sorted_by_row_across_groups():
    boxes = torch.tensor([[0.0, 0, 9, 9], [50, 0, 59, 9], [0, 50, 9, 59], [0, 50, 9, 58]])[None]
    scores, everywhere = torch.ones(1, 4), torch.ones(1, 4, dtype=torch.bool)
    rows, filled = batched_nms(boxes, scores, torch.tensor([[2, 0, 1, 1]]), everywhere, threshold=0.5, size=4)
    assert rows[filled].tolist() == [0, 1, 2]


def test_opcheck():
    boxes, scores, group, valid = candidates()
    torch.library.opcheck(_batched_nms, (boxes, scores, group, valid, 0.5, 20))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_matches_cpu():
    here, there = candidates(number=500, groups=20), candidates(number=500, groups=20, device="cuda")
    for ours, theirs in zip(
        batched_nms(*here, threshold=0.5, size=100), batched_nms(*there, threshold=0.5, size=100), strict=True
    ):
        assert torch.equal(ours, theirs.cpu())
