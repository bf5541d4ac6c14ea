import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libradet.geometry.soft_nms import _soft_nms, soft_nms
from tests.helpers.overlapping_boxes import candidates
from tests.helpers.reference_nms import reference_soft_nms

PLAIN = {"decay": "linear", "threshold": 0.3, "sigma": 0.5, "min_score": 0.001, "size": 20}


def softly(boxes, scores, groups, valid, **changes):
    return soft_nms(boxes, scores, groups, valid, **(PLAIN | changes))


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 1000),
    st.integers(1, 4),
    st.sampled_from(
        [{"threshold": 0.0}, {"threshold": 0.5}, {"decay": "gaussian"}, {"decay": "gaussian", "sigma": 0.1}]
    ),
    st.sampled_from([0.0, 0.001, 0.21]),
    st.integers(1, 80),
)
def test_scores_match_the_papers_loop(seed, groups, decay, min_score, size):
    boxes, scores, group, valid = candidates(groups=groups, seed=seed)
    options = PLAIN | decay | {"min_score": min_score, "size": size}
    rows, final, kept = soft_nms(boxes, scores, group, valid, **options)
    assert rows.shape == final.shape == kept.shape == (2, size)
    for b in range(2):
        image = [t[b].double().tolist() for t in (boxes, scores)] + [t[b].tolist() for t in (group, valid)]
        expected = reference_soft_nms(*image, **options)
        assert rows[b][kept[b]].tolist() == [row for row, _ in expected]
        torch.testing.assert_close(final[b][kept[b]].double(), torch.tensor([s for _, s in expected]).double())
        assert (rows[b][~kept[b]] == 0).all()
        assert (final[b][~kept[b]] == 0).all()
        assert kept[b].long().diff().le(0).all()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0.8 * (1 - 0.5)),
        ({"threshold": 0.5}, 0.8),
        ({"decay": "gaussian"}, 0.8 * math.exp(-0.5)),
        ({"decay": "gaussian", "sigma": 0.1}, 0.8 * math.exp(-2.5)),
    ],
)
def test_decay_of_two_boxes_of_iou_one_half(changes, expected):
    boxes = torch.tensor([[[0.0, 0, 10, 5], [0, 0, 10, 10]]])
    group, everywhere = torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.bool)
    rows, final, kept = softly(boxes, torch.tensor([[0.8, 0.9]]), group, everywhere, **changes)
    assert rows[kept].tolist() == [1, 0]
    assert final[kept].tolist() == pytest.approx([0.9, expected])
    rows, final, kept = softly(
        boxes, torch.tensor([[0.8, 0.9]]), group, everywhere, **changes, min_score=expected + 1e-6
    )
    assert rows[kept].tolist() == [1]
    apart = torch.tensor([[0, 1]])
    assert softly(boxes, torch.tensor([[0.8, 0.9]]), apart, everywhere, **changes)[1][kept].tolist() == [
        pytest.approx(0.9)
    ]
    assert softly(boxes, torch.tensor([[0.8, 0.9]]), apart, everywhere, **changes)[1][0, 1] == pytest.approx(0.8)


def test_a_duplicate_is_dropped_even_if_min_score_is_0():
    boxes = torch.tensor([3.0, 4, 30, 40]).expand(1, 2, 4)
    group, everywhere = torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.bool)
    rows, _, kept = softly(boxes, torch.tensor([[0.8, 0.9]]), group, everywhere, min_score=0.0)
    assert rows[kept].tolist() == [1]


def test_no_valid_candidates():
    boxes, scores, group, valid = candidates()
    valid[1] = False
    rows, final, kept = softly(boxes, scores, group, valid)
    assert kept[0].any()
    assert not any(t[1].any() for t in (rows, final, kept))
    for some in (candidates(number=0), (boxes, scores, group, torch.zeros_like(valid))):
        rows, final, kept = softly(*some)
        assert rows.shape == (2, 20)
        assert not any(t.any() for t in (rows, final, kept))


def test_opcheck():
    boxes, scores, group, valid = candidates()
    for decay in ("linear", "gaussian"):
        torch.library.opcheck(_soft_nms, (boxes, scores, group, valid, decay, 0.3, 0.5, 0.001, 20))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("decay", ["linear", "gaussian"])
def test_gpu_matches_cpu(decay):
    here, there = candidates(number=500, groups=20), candidates(number=500, groups=20, device="cuda")
    for ours, theirs in zip(softly(*here, decay=decay), softly(*there, decay=decay), strict=True):
        torch.testing.assert_close(ours, theirs.cpu())
