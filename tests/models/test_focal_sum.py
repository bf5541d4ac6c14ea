"""Focal loss in blocks of rows, with its gradient."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from libradet.models.config import FocalConfig
from libradet.models.losses import focal_loss, focal_losses
from libradet.models.ops import focal_sum

COUNT = torch.tensor(7.0)


def closed_form(logits, labels, valid, config):
    """Loss and gradient in float64, by probabilities."""
    classes = torch.arange(logits.shape[2])
    positive = labels[..., None] == classes
    weight = torch.where(positive, config.alpha, 1 - config.alpha).double() * valid[..., None]
    sign = torch.where(positive, -1.0, 1.0).double()
    z = sign * logits.double()
    error, right, cross_entropy = z.sigmoid(), (-z).sigmoid(), torch.nn.functional.softplus(z, threshold=1e3)
    focus = error.pow(config.gamma)
    loss = (weight * focus * cross_entropy).sum() / COUNT
    return loss, sign * weight * focus * (error + config.gamma * right * cross_entropy) / COUNT


@pytest.mark.parametrize("block", [1, 5, 1 << 16])
@given(
    batch=st.integers(1, 3),
    candidates=st.integers(1, 9),
    classes=st.integers(1, 6),
    gamma=st.sampled_from([0.0, 0.3, 1.0, 2.0, 5.0]),
    alpha=st.sampled_from([0.0, 0.25, 1.0]),
    scale=st.sampled_from([0.1, 4.0, 60.0]),
    seed=st.integers(0, 2**16),
)
def test_value_and_gradient_are_those_of_the_closed_form(block, batch, candidates, classes, gamma, alpha, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(batch, candidates, classes, generator=generator) * scale).requires_grad_()
    labels = torch.randint(0, classes + 2, (batch, candidates), generator=generator)
    valid = torch.rand(batch, candidates, generator=generator) < 0.7
    config = FocalConfig(alpha, gamma)
    assert focal_sum.is_supported(logits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(focal_sum, "BLOCK_ELEMENTS", block)
        loss = focal_loss(logits, labels, valid, COUNT, config)
    (gradient,) = torch.autograd.grad(3 * loss, logits)
    expected, slope = closed_form(logits.detach(), labels, valid, config)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradient.double(), 3 * slope, rtol=1e-5, atol=1e-7)


def test_a_compiler_and_evaluation_have_the_same_loss(monkeypatch):
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 50, 4, requires_grad=True), torch.randint(0, 5, (2, 50))
    valid, config = torch.rand(2, 50) < 0.5, FocalConfig()
    ours = focal_loss(logits, labels, valid, COUNT, config)
    plain = focal_losses(logits, labels, config).where(valid[..., None], 0).sum() / COUNT
    torch.testing.assert_close(ours, plain)
    with torch.no_grad():
        assert not focal_sum.is_supported(logits)
        torch.testing.assert_close(focal_loss(logits, labels, valid, COUNT, config), plain)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not focal_sum.is_supported(logits)
    torch.testing.assert_close(focal_loss(logits, labels, valid, COUNT, config), plain)


def test_infinite_logits_of_ignored_candidates_have_no_loss():
    logits = torch.tensor([[[torch.inf, 1.0], [0.5, -2.0]]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[2, 0]]), torch.tensor([[False, True]]), COUNT, FocalConfig())
    assert loss.isfinite()
    assert loss > 0


def test_keeps_one_tensor_for_the_backward_pass():
    """Eager operations keep the result of each."""
    logits, labels = torch.randn(2, 50, 4, requires_grad=True), torch.randint(0, 5, (2, 50))
    kept = []

    def remember(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        focal_loss(logits, labels, torch.ones(2, 50, dtype=torch.bool), COUNT, FocalConfig())
    assert [n for n in kept if n > 1] == [logits.numel()]
