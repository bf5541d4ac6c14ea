from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import LevelMapper

from libradet.geometry.roi_align import _pyramid_roi_align, assign_levels, pyramid_roi_align

STRIDES = [4, 8, 16, 32]
PADDED_SIZE = (256, 320)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def _threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def make_pyramid(images=2, channels=3, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = [(images, channels, PADDED_SIZE[0] // s, PADDED_SIZE[1] // s) for s in STRIDES]
    return [torch.randn(shape, generator=g).to(dtype).requires_grad_() for shape in shapes]


def make_boxes(images=2, number=20, seed=1):
    """Boxes [B, S, 4] of all sizes, some partly outside the image."""
    g = torch.Generator().manual_seed(seed)
    side = 2 ** (torch.rand(images, number, 2, generator=g) * 7 + 2.5)
    corner = torch.rand(images, number, 2, generator=g) * torch.tensor([300.0, 240.0]) - 10
    return torch.cat([corner, corner + side], -1)


def reference(pyramid, boxes, aligned, sampling_ratio):
    """Box after box, from the level that LevelMapper names."""
    rows = []
    for b in range(len(boxes)):
        levels = LevelMapper(2, 5)([boxes[b]])
        for box, level in zip(boxes[b], levels.tolist(), strict=True):
            features = pyramid[level][b : b + 1]
            rows.append(roi_align(features, [box[None]], 7, 1 / STRIDES[level], sampling_ratio, aligned))
    return torch.cat(rows)


def grads(output, pyramid, seed=3):
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))
    return torch.autograd.grad((output.float() * weight).sum(), pyramid, allow_unused=True, materialize_grads=True)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1200), st.floats(0, 1200)), min_size=1, max_size=20))
def test_levels_match_torchvision(sides):
    boxes = torch.tensor([[3.0, 5.0, 3 + w, 5 + h] for w, h in sides])
    assert torch.equal(assign_levels(boxes, STRIDES), LevelMapper(2, 5)([boxes]))


def test_levels_change_at_the_canonical_sizes():
    sides = torch.tensor([0.0, 111.0, 112.0, 223.0, 224.0, 447.0, 448.0, 5000.0])
    boxes = torch.cat([torch.zeros(8, 2), sides[:, None].expand(-1, 2)], 1)
    assert assign_levels(boxes, STRIDES).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert assign_levels(boxes, [8, 16, 32]).tolist() == [0, 0, 0, 0, 1, 1, 2, 2]


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_match_torchvision(memory_format):
    pyramid, boxes = make_pyramid(), make_boxes()
    shaped = [x.detach().contiguous(memory_format=memory_format).requires_grad_() for x in pyramid]
    ours = pyramid_roi_align(shaped, boxes, torch.ones(2, 20, dtype=torch.bool), STRIDES, aligned=False)
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    named = OrderedDict((str(i), x) for i, x in enumerate(pyramid))
    theirs = pool(named, list(boxes), [PADDED_SIZE, PADDED_SIZE])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for a, b in zip(grads(ours, shaped), grads(theirs, pyramid), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("images", [1, 3])
def test_aligned_values_and_gradients(sampling_ratio, images):
    pyramid, boxes = make_pyramid(images), make_boxes(images, 12)
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool)
    ours = pyramid_roi_align(pyramid, boxes, valid, STRIDES, sampling_ratio=sampling_ratio, aligned=True)
    theirs = reference(pyramid, boxes, True, sampling_ratio)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for a, b in zip(grads(ours, pyramid), grads(theirs, pyramid), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("_threads")
def test_invalid_boxes_have_zero_features_and_no_gradient():
    pyramid, boxes = make_pyramid(), make_boxes()
    valid = torch.rand(2, 20, generator=torch.Generator().manual_seed(0)) < 0.5
    ours = pyramid_roi_align(pyramid, boxes, valid, STRIDES)
    assert (ours[~valid.flatten()] == 0).all()
    every = pyramid_roi_align(pyramid, boxes, torch.ones_like(valid), STRIDES)
    torch.testing.assert_close(ours[valid.flatten()], every[valid.flatten()])
    wild = boxes.masked_fill(~valid[..., None], torch.nan)
    again = pyramid_roi_align(pyramid, wild, valid, STRIDES)
    for a, b in zip(grads(again, pyramid), grads(every * valid.flatten()[:, None, None, None], pyramid), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    nothing = pyramid_roi_align(pyramid, boxes, torch.zeros_like(valid), STRIDES)
    assert all((g == 0).all() for g in grads(nothing, pyramid))


def test_half_precision_is_accumulated_in_float32():
    pyramid, boxes = make_pyramid(dtype=torch.bfloat16), make_boxes()
    valid = torch.ones(2, 20, dtype=torch.bool)
    ours = pyramid_roi_align(pyramid, boxes, valid, STRIDES)
    exact = pyramid_roi_align([x.detach().float() for x in pyramid], boxes, valid, STRIDES)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, exact.bfloat16())
    assert all(g.dtype == torch.bfloat16 for g in grads(ours, pyramid))


def test_boxes_receive_no_gradient():
    boxes = make_boxes().requires_grad_()
    pyramid_roi_align(make_pyramid(), boxes, torch.ones(2, 20, dtype=torch.bool), STRIDES).sum().backward()
    assert boxes.grad is None


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_opcheck(memory_format):
    pyramid = [x.detach().contiguous(memory_format=memory_format).requires_grad_() for x in make_pyramid()]
    boxes = make_boxes()
    levels = assign_levels(boxes, STRIDES)
    levels[0, 3] = -1
    torch.library.opcheck(_pyramid_roi_align, (pyramid, boxes, levels, STRIDES, 7, 2, True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_matches_cpu():
    pyramid, boxes = make_pyramid(), make_boxes()
    valid = torch.ones(2, 20, dtype=torch.bool)
    here = pyramid_roi_align(pyramid, boxes, valid, STRIDES)
    on_gpu = [x.detach().cuda().requires_grad_() for x in pyramid]
    there = pyramid_roi_align(on_gpu, boxes.cuda(), valid.cuda(), STRIDES)
    torch.testing.assert_close(there.cpu(), here, atol=1e-4, rtol=1e-4)
    for a, b in zip(grads(there.cpu(), on_gpu), grads(here, pyramid), strict=True):
        torch.testing.assert_close(a.cpu(), b, atol=1e-3, rtol=1e-3)
