import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_area as torchvision_box_area
from torchvision.ops import box_iou, clip_boxes_to_image

from libradet.geometry.boxes import (
    MAX_LOG_RATIO,
    box_area,
    clip_boxes,
    decode,
    encode,
    is_larger,
    pairwise_iof,
    pairwise_iou,
)

RCNN_STD = (0.1, 0.1, 0.2, 0.2)


def boxes(least=0.0, fewest=1, most=12):
    """Boxes [N, 4] with corners within 400 px and sides of at least ``least``."""

    def build(a):
        corner, side = a[:, :2] * 300, least + a[:, 2:] * 100
        return torch.from_numpy(np.concatenate([corner, corner + side], 1)).float()

    shape = st.tuples(st.integers(fewest, most), st.just(4))
    return shape.flatmap(lambda s: arrays(np.float64, s, elements=st.floats(0, 1, width=16))).map(build)


@settings(deadline=None, max_examples=60)
@given(boxes(least=0.1), boxes(least=0.1))
def test_iou_matches_torchvision(a, b):
    torch.testing.assert_close(pairwise_iou(a[None], b[None])[0], box_iou(a, b), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(box_area(a), torchvision_box_area(a))


@settings(deadline=None, max_examples=30)
@given(boxes(), boxes())
def test_iou_is_symmetric_bounded_and_one_with_oneself(a, b):
    iou = pairwise_iou(a[None], b[None])[0]
    assert ((iou >= 0) & (iou <= 1 + 1e-6)).all()
    torch.testing.assert_close(iou, pairwise_iou(b[None], a[None])[0].T)
    real = box_area(a) > 0.01
    own = pairwise_iou(a[None], a[None])[0].diagonal()[real]
    torch.testing.assert_close(own, torch.ones_like(own))


def test_iou_of_a_batch_is_computed_per_image():
    a, b = torch.rand(3, 5, 4) * 50, torch.rand(3, 4, 4) * 50
    a, b = (torch.cat([x[..., :2], x[..., :2] + x[..., 2:]], -1) for x in (a, b))
    together = pairwise_iou(a, b)
    for i in range(3):
        torch.testing.assert_close(together[i], box_iou(a[i], b[i]))


def test_empty_and_inverted_boxes_have_no_area_and_no_overlap():
    odd = torch.tensor([[[5.0, 5, 5, 9], [9, 9, 3, 3], [0, 0, 0, 0]]])
    whole = torch.tensor([[[0.0, 0, 20, 20]]])
    assert (box_area(odd) == 0).all()
    assert (pairwise_iou(odd, whole) == 0).all()
    assert (pairwise_iof(odd, whole) == 0).all()
    assert (pairwise_iou(odd, odd) == 0).all()


def test_iof_by_hand():
    inner, outer = torch.tensor([[[0.0, 0, 10, 10], [5, 0, 15, 10]]]), torch.tensor([[[0.0, 0, 10, 100]]])
    torch.testing.assert_close(pairwise_iof(inner, outer), torch.tensor([[[1.0], [0.5]]]))


def test_iou_and_iof_match_mmdetection(parity):
    z = parity("delta2bbox")
    rois, gt = z["rois"][None, :100], z["gt"][None, :80]
    torch.testing.assert_close(pairwise_iou(rois, gt)[0], z["iou"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pairwise_iof(rois, gt)[0], z["iof"], atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=40)
@given(boxes(2, 6, 6), boxes(2, 6, 6), st.sampled_from([(1.0,) * 4, RCNN_STD]))
def test_encode_matches_torchvision_and_decode_inverts_it(source, target, std):
    deltas = encode(source.double(), target.double(), std)
    torchvision = BoxCoder(tuple(1 / s for s in std)).encode_single(target.double(), source.double())
    torch.testing.assert_close(deltas, torchvision, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(decode(source.double(), deltas, std), target.double(), atol=1e-9, rtol=1e-9)


def test_decode_matches_torchvision_within_its_limits():
    torch.manual_seed(0)
    corner = torch.rand(50, 2) * 100
    source = torch.cat([corner, corner + 1 + torch.rand(50, 2) * 60], 1)
    deltas = torch.randn(50, 4) * 3
    theirs = BoxCoder((10.0, 10.0, 5.0, 5.0)).decode_single(deltas, source)
    torch.testing.assert_close(decode(source, deltas, RCNN_STD), theirs, atol=1e-3, rtol=1e-5)


def test_encode_and_decode_match_mmdetection(parity):
    z = parity("delta2bbox")
    size = z["max_shape_hw"][None]
    close = {"atol": 1e-3, "rtol": 1e-5}
    torch.testing.assert_close(encode(z["rois"], z["gt"]), z["encode_std1"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(encode(z["rois"], z["gt"], RCNN_STD), z["encode_std_rcnn"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(decode(z["rois"], z["deltas"]), z["decode_std1_noclip"], **close)
    torch.testing.assert_close(
        clip_boxes(decode(z["rois"], z["deltas"])[None], size)[0], z["decode_std1_clip"], **close
    )
    per_class = decode(z["rois"][:, None].expand(-1, 3, -1), z["deltas_3cls"].view(-1, 3, 4), RCNN_STD)
    torch.testing.assert_close(clip_boxes(per_class[None], size)[0].flatten(1), z["decode_rcnn_3cls_clip"], **close)


def test_encode_and_decode_are_finite_for_padding_and_huge_deltas():
    zero, real = torch.zeros(1, 4), torch.tensor([[3.0, 4, 50, 60]])
    for source, target in [(zero, real), (real, zero), (zero, zero)]:
        assert encode(source, target).isfinite().all()
    deltas = torch.tensor([[0.0, 0, 1e4, -1e4]], requires_grad=True)
    box = decode(real, deltas)
    box.sum().backward()
    assert box.isfinite().all()
    assert deltas.grad.isfinite().all()
    sides = box[0, 2:] - box[0, :2]
    assert sides[0].item() == pytest.approx(47 * math.exp(MAX_LOG_RATIO), rel=1e-4)
    assert 0 <= sides[1].item() <= 56 * math.exp(-MAX_LOG_RATIO) + 1e-4


def test_clip_boxes_matches_torchvision():
    torch.manual_seed(1)
    x = torch.randn(2, 3, 7, 4) * 80
    sizes = torch.tensor([[40, 90], [100, 30]])
    ours = clip_boxes(x, sizes)
    for i, (h, w) in enumerate(sizes.tolist()):
        torch.testing.assert_close(ours[i], clip_boxes_to_image(x[i].flatten(0, 1), (h, w)).view(3, 7, 4))
    torch.testing.assert_close(clip_boxes(x[:, 0], sizes), ours[:, 0])


def test_is_larger_checks_both_sides():
    x = torch.tensor([[0.0, 0, 3, 3], [0, 0, 2, 9], [0, 0, 9, 2], [0, 0, -5, 9]])
    assert is_larger(x, 2.0).tolist() == [True, False, False, False]
