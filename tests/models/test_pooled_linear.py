"""RoIAlign and a linear layer in one step compute what the two do."""

import pytest
import torch
from torch import nn

from libradet.models.box_head import roi_pool
from libradet.models.config import RoIAlignConfig
from libradet.models.ops import pooled_linear
from libradet.models.ops.pooled_linear import PooledLinear
from tests.helpers.tiny_detectors import lively, tiny_batch, tiny_detector, tiny_zoo_config

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_is_that_of_the_layers(sampling_ratio, dtype, monkeypatch):
    if dtype == torch.bfloat16 and not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("needs bf16 instructions")
    monkeypatch.setattr(pooled_linear, "BOXES", 4)
    torch.manual_seed(0)
    features = [torch.randn(2, 8, 64 // s, 96 // s).to(dtype) for s in (4, 8, 16)]
    corners = torch.rand(2, 10, 2) * 60
    boxes = torch.cat([corners, corners + torch.rand(2, 10, 2) * 90], -1)
    boxes[0, 2] = 0
    valid = torch.rand(2, 10) < 0.7
    valid[:, :4] = True  # a block without empty slots
    linear = nn.Linear(8 * 3 * 3, 5).requires_grad_(False).to(dtype)
    config = RoIAlignConfig(output_size=3, num_levels=2, sampling_ratio=sampling_ratio)
    expected = linear(roi_pool(features, boxes, valid, [4, 8, 16], config).flatten(1))
    actual = PooledLinear(linear, [4, 8, 16], config)(features, boxes, valid)
    assert actual.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["faster_rcnn", "cascade_rcnn"])
def test_packed_heads_return_the_same_detections(name):
    model = lively(tiny_detector(tiny_zoo_config(name))).eval()
    batch = tiny_batch(size=(64, 128), num_images=2)
    with torch.inference_mode():
        expected = model(batch)
        for head in model.roi.box_heads:
            head.pack()
            assert isinstance(head.pooled_fc1, PooledLinear)
        actual = model(batch)
    assert expected.valid.any()
    assert torch.equal(actual.valid, expected.valid)
    torch.testing.assert_close(actual.boxes, expected.boxes, rtol=0, atol=1e-3)
    torch.testing.assert_close(actual.scores, expected.scores, rtol=0, atol=1e-4)
