"""Images dealt out to threads give what one thread gives, with and without gradients."""

import pytest
import torch

from libradet.geometry.roi_align import pyramid_roi_align

STRIDES = [4, 8, 16, 32]


def pooled_and_gradients(threads: int, pyramid, boxes, valid):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pyramid = [x.clone().requires_grad_() for x in pyramid]
        out = pyramid_roi_align(pyramid, boxes, valid, STRIDES)
        (out * torch.arange(out.numel()).view(out.shape).sin()).sum().backward()
        with torch.inference_mode():
            seen = pyramid_roi_align(pyramid, boxes, valid, STRIDES)
    finally:
        torch.set_num_threads(before)
    return [out.detach(), seen.clone(), *(x.grad for x in pyramid)]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_threads_change_nothing(memory_format):
    g = torch.Generator().manual_seed(0)
    pyramid = [torch.randn(3, 8, 256 // s, 192 // s, generator=g).to(memory_format=memory_format) for s in STRIDES]
    corner = torch.rand(3, 40, 2, generator=g) * 150
    boxes = torch.cat([corner, corner + 4 + torch.rand(3, 40, 2, generator=g) ** 3 * 250], -1)
    valid = torch.rand(3, 40, generator=g) < 0.8
    one = pooled_and_gradients(1, pyramid, boxes, valid)
    for _ in range(20):
        for a, b in zip(one, pooled_and_gradients(4, pyramid, boxes, valid), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
