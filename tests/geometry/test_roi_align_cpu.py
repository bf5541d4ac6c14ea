"""RoIAlign on the CPU against torchvision's: boxes on borders, outside, empty and huge, in float64; and threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from libradet.geometry.roi_align import assign_levels, pyramid_roi_align

STRIDES = [4, 8, 16]
HEIGHT, WIDTH = 64, 48

# Quarters of a pixel meet borders and sampling points exactly.
quarters = st.integers(-160, 480).map(lambda n: n / 4)
lengths = st.one_of(st.just(0.0), st.integers(0, 1200).map(lambda n: n / 4), st.floats(0, 1500))
boxes_anywhere = st.lists(st.tuples(quarters, quarters, lengths, lengths), min_size=1, max_size=6)


def make_pyramid(dtype, channels=3, layout=torch.contiguous_format):
    g = torch.Generator().manual_seed(0)
    levels = [torch.randn(2, channels, HEIGHT // s, WIDTH // s, dtype=torch.float64, generator=g) for s in STRIDES]
    return [x.to(dtype, memory_format=layout).requires_grad_() for x in levels]


def torchvisions(pyramid, boxes, size, ratio, aligned):
    levels = assign_levels(boxes, STRIDES)
    rows = []
    for b in range(2):
        for box, level in zip(boxes[b], levels[b].tolist(), strict=True):
            rows.append(roi_align(pyramid[level][b : b + 1], [box[None]], size, 1 / STRIDES[level], ratio, aligned))
    return torch.cat(rows)


def gradients(output, pyramid):
    weight = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad(output, pyramid, weight.to(output.dtype), allow_unused=True, materialize_grads=True)


@settings(deadline=None, max_examples=60)
@given(boxes_anywhere, st.integers(0, 3), st.booleans(), st.sampled_from([1, 2, 7]))
def test_any_box_matches_torchvision(drawn, ratio, aligned, size):
    corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in drawn], dtype=torch.float64)
    boxes = torch.stack([corners, corners.flip(0) + 1])
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool)
    for dtype, limit in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        pyramid, own = make_pyramid(dtype), boxes.to(dtype)
        ours = pyramid_roi_align(pyramid, own, valid, STRIDES, size=size, sampling_ratio=ratio, aligned=aligned)
        theirs = torchvisions(pyramid, own, size, ratio, aligned)
        torch.testing.assert_close(ours, theirs, atol=limit, rtol=limit)
        for a, b in zip(gradients(ours, pyramid), gradients(theirs, pyramid), strict=True):
            torch.testing.assert_close(a, b, atol=10 * limit, rtol=10 * limit)


def some_boxes(number=30):
    corner = torch.rand(2, number, 2, generator=torch.Generator().manual_seed(2)) * 40
    side = torch.rand(2, number, 2, generator=torch.Generator().manual_seed(3)) ** 2 * 120
    return torch.cat([corner, corner + side], -1)


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_half_precision_rounds_only_the_result(ratio, layout):
    # More channels than are computed at once, and not a multiple.
    halves, boxes = make_pyramid(torch.bfloat16, 70, layout), some_boxes()
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool)
    exact = [x.detach().float().requires_grad_() for x in halves]
    a, b = (pyramid_roi_align(p, boxes, valid, STRIDES, sampling_ratio=ratio) for p in (halves, exact))
    assert a.dtype == torch.bfloat16
    assert torch.equal(a, b.bfloat16())
    weight = torch.randn(a.shape, generator=torch.Generator().manual_seed(4)).bfloat16()
    gradients_of_both = zip(
        torch.autograd.grad(a, halves, weight), torch.autograd.grad(b, exact, weight.float()), strict=True
    )
    for half, single in gradients_of_both:
        assert torch.equal(half, single.bfloat16())
        assert half.is_contiguous(memory_format=layout)


def test_autocast_and_inference_mode_change_nothing():
    pyramid, boxes = make_pyramid(torch.float32), some_boxes()
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool)
    plain = pyramid_roi_align(pyramid, boxes, valid, STRIDES)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert torch.equal(pyramid_roi_align(pyramid, boxes, valid, STRIDES), plain)


def test_no_boxes_at_all():
    pyramid = make_pyramid(torch.float32)
    out = pyramid_roi_align(pyramid, torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool), STRIDES)
    assert out.shape == (0, 3, 7, 7)
    assert all((g == 0).all() for g in gradients(out, pyramid))


def test_the_pyramid_is_not_saved_for_backward():
    pyramid, boxes, kept = make_pyramid(torch.float32), some_boxes(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        pyramid_roi_align(pyramid, boxes, torch.ones(boxes.shape[:2], dtype=torch.bool), STRIDES)
    assert sorted(kept) == sorted([boxes.shape, boxes.shape[:2]])


THREAD_STRIDES = [4, 8, 16, 32]


def pooled_and_gradients(threads: int, pyramid, boxes, valid):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pyramid = [x.clone().requires_grad_() for x in pyramid]
        out = pyramid_roi_align(pyramid, boxes, valid, THREAD_STRIDES)
        (out * torch.arange(out.numel()).view(out.shape).sin()).sum().backward()
        with torch.inference_mode():
            inferred = pyramid_roi_align(pyramid, boxes, valid, THREAD_STRIDES)
    finally:
        torch.set_num_threads(before)
    return [out.detach(), inferred.clone(), *(x.grad for x in pyramid)]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_results_do_not_depend_on_the_number_of_threads(memory_format):
    g = torch.Generator().manual_seed(0)
    pyramid = [
        torch.randn(3, 8, 256 // s, 192 // s, generator=g).to(memory_format=memory_format) for s in THREAD_STRIDES
    ]
    corner = torch.rand(3, 40, 2, generator=g) * 150
    boxes = torch.cat([corner, corner + 4 + torch.rand(3, 40, 2, generator=g) ** 3 * 250], -1)
    valid = torch.rand(3, 40, generator=g) < 0.8
    one = pooled_and_gradients(1, pyramid, boxes, valid)
    for _ in range(20):
        for a, b in zip(one, pooled_and_gradients(4, pyramid, boxes, valid), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
