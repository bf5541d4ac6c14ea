"""Operators and the functions in them compute the same; functions are called where nothing needs an operator."""

import sys

import pytest
import torch

from libradet.geometry.nms import batched_nms
from libradet.geometry.roi_align import pyramid_roi_align
from libradet.utils.eager import is_plain_inference


@pytest.fixture
def without_compiler(monkeypatch):
    """As at the start of a process."""
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)


def test_functions_are_called_in_plain_inference_only(without_compiler, monkeypatch):
    x = torch.ones(2, 4)
    assert not is_plain_inference(x)
    with torch.inference_mode():
        assert is_plain_inference(x)
        assert not is_plain_inference(x.to("meta"))
        assert not is_plain_inference(torch.nn.Parameter(x))
        monkeypatch.setitem(sys.modules, "torch._dynamo", torch)
        assert not is_plain_inference(x)


def test_functions_compute_what_operators_do(without_compiler, monkeypatch):
    rng = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 30, 2, generator=rng) * 60
    boxes = torch.cat([corners, corners + 5 + 40 * torch.rand(2, 30, 2, generator=rng)], 2)
    scores, groups = torch.rand(2, 30, generator=rng), torch.randint(3, (2, 30), generator=rng)
    valid = torch.rand(2, 30, generator=rng) < 0.8
    pyramid = [torch.rand(2, 4, 112 // s, 112 // s, generator=rng) for s in (4, 8)]

    def compute():
        kept = batched_nms(boxes, scores, groups, valid, threshold=0.5, size=20)
        return *kept, pyramid_roi_align(pyramid, boxes, valid, (4, 8))

    with torch.no_grad():
        functions = compute()
        monkeypatch.setitem(sys.modules, "torch._dynamo", torch)
        operators = compute()
    assert all(torch.equal(a, b) for a, b in zip(functions, operators, strict=True))
