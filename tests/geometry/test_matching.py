import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from libradet.geometry import block_matching, matching
from libradet.geometry.anchors import base_anchors, grid_anchors
from libradet.geometry.block_matching import best_iou
from libradet.geometry.matching import IGNORED, NEGATIVE, Matches, ignore_in_crowd, match

SETTINGS = {
    "rpn": {"fg_iou_thresh": 0.7, "bg_iou_thresh": 0.3, "allow_low_quality_matches": True, "min_pos_iou": 0.3},
    "retina": {"fg_iou_thresh": 0.5, "bg_iou_thresh": 0.4, "allow_low_quality_matches": True, "min_pos_iou": 0.0},
    "rcnn": {"fg_iou_thresh": 0.5, "bg_iou_thresh": 0.5, "allow_low_quality_matches": False, "min_pos_iou": 0.5},
}


def one(candidates, gt, valid=None, **settings):
    valid = torch.ones(len(gt), dtype=torch.bool) if valid is None else valid
    matches = match(candidates[None], gt[None], valid[None], **settings)
    return Matches(matches.gt[0], matches.iou[0])


@st.composite
def small_boxes(draw, most):
    # Whole pixels on a small image: ties in IoU are frequent.
    rows = draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 6)), max_size=most))
    rows = rows or [(0, 0, 3)]
    return torch.tensor([[x, y, x + s, y + (s + 1) // 2 * 2] for x, y, s in rows], dtype=torch.float32)


def by_definition(candidates, gt, valid, *, fg_iou_thresh, bg_iou_thresh, allow_low_quality_matches, min_pos_iou):
    """Faster R-CNN, section 3.1.2, written out for every candidate."""
    iou = box_iou(candidates, gt).numpy() * valid.numpy()[None]
    result = []
    for row in iou:
        best = int(row.argmax())
        result.append(best if row[best] >= fg_iou_thresh else NEGATIVE if row[best] < bg_iou_thresh else IGNORED)
    if allow_low_quality_matches:
        for g in range(len(gt)):
            top = iou[:, g].max()
            if valid[g] and top > 0 and top >= min_pos_iou:
                for a in np.flatnonzero(iou[:, g] == top):
                    result[a] = g
    return result, iou.max(1)


@settings(deadline=None, max_examples=150)
@given(small_boxes(12), small_boxes(4), st.sampled_from(sorted(SETTINGS)), st.data())
def test_matches_follow_the_definition(candidates, gt, kind, data):
    valid = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(gt), max_size=len(gt))))
    matches = one(candidates, gt, valid, **SETTINGS[kind])
    expected, iou = by_definition(candidates, gt, valid, **SETTINGS[kind])
    assert matches.gt.tolist() == expected
    np.testing.assert_allclose(matches.iou.numpy(), iou, atol=1e-6)


@pytest.mark.parametrize("case", ["random", "special", "empty"])
@pytest.mark.parametrize("kind", ["rpn", "retina", "rcnn"])
def test_matches_match_mmdetection(parity, case, kind):
    z = parity("assigner")
    gt = z[f"{case}.gt_bboxes"]
    valid = torch.ones(len(gt), dtype=torch.bool)
    if len(gt) == 0:
        gt, valid = torch.zeros(1, 4), torch.zeros(1, dtype=torch.bool)
    candidates = z[f"{case}.proposals"] if kind == "rcnn" else z["anchors"]
    matches = one(candidates, gt, valid, **SETTINGS[kind])
    theirs = z[f"{case}.{kind}.gt_inds"]
    ours = torch.where(matches.gt == IGNORED, -1, matches.gt + 1)
    # Which anchors tie for a ground truth's best depends on the last bit of an IoU; all else has to be equal.
    torch.testing.assert_close(matches.iou, z[f"{case}.{kind}.max_overlaps"], atol=1e-5, rtol=0)
    assert torch.equal(ours, theirs)


def test_crowds_match_mmdetections_ignored_regions(parity):
    z = parity("assigner")
    for case in ("random", "special"):
        gt, regions = z[f"{case}.gt_bboxes"], z["ignore_bboxes"]
        boxes = torch.cat([gt, regions])[None]
        crowd = torch.tensor([False] * len(gt) + [True] * len(regions))[None]
        candidates = z[f"{case}.proposals"][None]
        matches = match(candidates, boxes, ~crowd, **SETTINGS["rcnn"])
        ours = ignore_in_crowd(matches, candidates, boxes, crowd, ignore_iof_thresh=0.5).gt[0]
        theirs = z[f"{case}.rcnn_ignore.gt_inds"]
        # There, an object inside a region is ignored as well; here it stays a positive.
        positive = matches.gt[0] >= 0
        assert torch.equal(ours[positive], matches.gt[0][positive])
        assert torch.equal(ours[~positive] == IGNORED, theirs[~positive] == -1)
        assert (ours == IGNORED).any()


def test_matches_equal_torchvisions_without_low_quality_matches():
    torch.manual_seed(0)
    corner = torch.rand(400, 2) * 100
    candidates = torch.cat([corner, corner + 5 + torch.rand(400, 2) * 60], 1)
    gt = candidates[:6] + torch.randn(6, 4)
    theirs = Matcher(0.5, 0.3, allow_low_quality_matches=False)(box_iou(gt, candidates))
    assert torch.equal(one(candidates, gt, fg_iou_thresh=0.5, bg_iou_thresh=0.3).gt, theirs)


def test_low_quality_matches_have_torchvisions_positives():
    torch.manual_seed(1)
    corner = torch.rand(400, 2) * 100
    candidates = torch.cat([corner, corner + 5 + torch.rand(400, 2) * 60], 1)
    gt = candidates[:6] + torch.randn(6, 4) * 8
    theirs = Matcher(0.9, 0.3, allow_low_quality_matches=True)(box_iou(gt, candidates))
    ours = one(candidates, gt, fg_iou_thresh=0.9, bg_iou_thresh=0.3, allow_low_quality_matches=True).gt
    assert torch.equal(ours >= 0, theirs >= 0)
    assert torch.equal(ours == NEGATIVE, theirs == NEGATIVE)


def test_padding_rows_change_nothing():
    torch.manual_seed(2)
    candidates, gt = torch.rand(1, 50, 4) * 20, torch.rand(1, 3, 4) * 20
    candidates[..., 2:] += candidates[..., :2]
    gt[..., 2:] += gt[..., :2]
    padded = torch.cat([gt, candidates[:, :5]], 1)
    valid = torch.tensor([[True] * 3 + [False] * 5])
    for kind in SETTINGS.values():
        plain, with_padding = match(candidates, gt, valid[:, :3], **kind), match(candidates, padded, valid, **kind)
        assert torch.equal(plain.gt, with_padding.gt)
        assert torch.equal(plain.iou, with_padding.iou)


def test_only_negatives_are_ignored_in_a_crowd_and_only_beyond_the_threshold():
    candidates = torch.tensor([[[0.0, 0, 10, 10], [5, 0, 15, 10], [4, 0, 14, 10], [0, 0, 10, 10]]])
    crowd_box = torch.tensor([[[0.0, 0, 10, 50], [0, 0, 10, 10]]])
    matches = Matches(torch.tensor([[NEGATIVE, NEGATIVE, NEGATIVE, 1]]), torch.zeros(1, 4))
    crowd = torch.tensor([[True, False]])
    # Covered by 1, 0.5 and 0.6 of their areas.
    assert ignore_in_crowd(matches, candidates, crowd_box, crowd).gt.tolist() == [[IGNORED, NEGATIVE, IGNORED, 1]]


def test_an_iou_at_a_threshold_is_not_below_it():
    gt = torch.tensor([[0.0, 0, 4, 4]])
    candidates = torch.tensor([[0.0, 0, 2, 4], [0, 0, 1, 4], [0, 0, 1, 3.9]])  # IoU 1/2, 1/4 and less
    matches = one(candidates, gt, fg_iou_thresh=0.5, bg_iou_thresh=0.25)
    assert matches.gt.tolist() == [0, IGNORED, NEGATIVE]


def grid(height, width, images=2):
    levels = [
        grid_anchors(base_anchors(s, (8.0,), (0.5, 1.0, 2.0)), -(-height // s), -(-width // s), s) for s in (8, 16, 32)
    ]
    return torch.cat(levels).expand(images, -1, -1)


def objects(number, seed, whole=False):
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, number, 2, generator=g) * 200
    boxes = torch.cat([corner, corner + 4 + torch.rand(2, number, 2, generator=g) * 120], -1)
    return (boxes / 8).round() * 8 if whole else boxes


@pytest.mark.parametrize("whole", [False, True], ids=["", "many ties"])
@pytest.mark.parametrize("number", [1, 7, 60])
@pytest.mark.parametrize(("min_iou", "min_claim"), [(0.7, 1e-6), (0.1, 0.3), (0.0, float("inf"))])
def test_blocks_match_bit_for_bit_as_the_matrix_of_all_pairs(number, whole, min_iou, min_claim):
    anchors, gt = grid(250, 330), objects(number, number, whole)
    # Padding: anchors without extent, in both images or at the end of one.
    anchors = anchors * (torch.tensor([anchors.shape[1], 2000])[:, None] > torch.arange(anchors.shape[1]))[..., None]
    valid = torch.rand(2, number, generator=torch.Generator().manual_seed(number)) < 0.7
    blocks, matrix = (f(anchors, gt, valid, min_iou, min_claim) for f in (best_iou, matching._best_iou_of_matrix))
    assert torch.equal(blocks.iou, matrix.iou)
    assert torch.equal(blocks.row, torch.where(matrix.iou >= min_iou, matrix.row, 0))
    assert torch.equal(blocks.claimed, matrix.claimed)


def test_blocks_without_any_object_are_negative():
    anchors = grid(128, 192)
    none = best_iou(anchors, torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool), 0.5, 1e-6)
    assert not none.iou.any()
    assert not none.row.any()
    assert (none.claimed == -1).all()


@pytest.mark.parametrize("kind", sorted(SETTINGS))
def test_many_candidates_match_as_few_do(monkeypatch, kind):
    anchors, gt = grid(320, 320), objects(12, 3)
    valid = torch.ones(2, 12, dtype=torch.bool)
    assert anchors.shape[1] >= matching.MIN_FOR_BLOCKS
    in_blocks = match(anchors, gt, valid, **SETTINGS[kind])
    monkeypatch.setattr(matching, "MIN_FOR_BLOCKS", 10**9)
    assert all(map(torch.equal, in_blocks, match(anchors, gt, valid, **SETTINGS[kind])))


def test_objects_that_overlap_with_a_block_decide_its_cost(monkeypatch):
    """With 200 small objects, a quarter of all pairs is computed."""
    pairs = []
    compute = block_matching._iou
    monkeypatch.setattr(block_matching, "_iou", lambda *a: pairs.append(a[1].numel()) or compute(*a))
    anchors, corner = grid(512, 512), torch.rand(2, 200, 2, generator=torch.Generator().manual_seed(0)) * 500
    best_iou(anchors, torch.cat([corner, corner + 10], -1), torch.ones(2, 200, dtype=torch.bool), 0.5, 0.3)
    assert sum(pairs) < 0.25 * anchors.shape[0] * anchors.shape[1] * 200
