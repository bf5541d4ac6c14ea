import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from libradet.balance import BalancedL1Loss, balanced_l1_loss

COMBOS = [(0.5, 1.5, 1.0), (0.2, 1.0, 1.0), (0.3, 1.0, 1.0), (0.5, 2.0, 1.0), (0.5, 1.5, 0.11), (0.4, 1.2, 3.0)]
parameters = st.tuples(st.floats(0.1, 1), st.floats(0.5, 3), st.floats(0.05, 4))


def slope(x, alpha, gamma, beta):
    """The gradient that the paper promotes (equation 6), which defines the loss; β stretches it along x."""
    b = math.exp(gamma / alpha) - 1
    return alpha * math.log(b * x / beta + 1) if x < beta else gamma


def value_and_gradient(x, *args, **kwargs):
    x = torch.as_tensor(x, dtype=torch.float64).requires_grad_()
    value = balanced_l1_loss(x, *args, **kwargs)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


@pytest.mark.parametrize(("alpha", "gamma", "beta"), COMBOS)
def test_value_is_the_integral_of_the_papers_gradient(alpha, gamma, beta):
    errors = [0.0, 1e-6, 0.01, 0.3 * beta, 0.99 * beta, beta, 1.5 * beta, 7.0, 300.0]
    value, gradient = value_and_gradient(errors, alpha, gamma, beta)
    for x, v, g in zip(errors, value.tolist(), gradient.tolist(), strict=True):
        area = quad(slope, 0, x, (alpha, gamma, beta), points=[beta] if x > beta else None, epsabs=1e-13)[0]
        assert v == pytest.approx(area, rel=1e-9, abs=1e-12)
        assert g == pytest.approx(slope(x, alpha, gamma, beta), rel=1e-9, abs=1e-12)


def test_the_papers_own_formula():
    """β = 1: α/b * (b|x| + 1) * ln(b|x| + 1) - α|x| below 1, γ|x| + C above, where γ = α ln(b + 1)."""
    alpha, gamma = 0.5, 1.5
    b = math.exp(gamma / alpha) - 1
    x = np.linspace(-3, 3, 301)
    a = np.abs(x)
    small = alpha / b * (b * a + 1) * np.log(b * a + 1) - alpha * a
    large = gamma * a + gamma / b - alpha
    np.testing.assert_allclose(balanced_l1_loss(torch.from_numpy(x)).numpy(), np.where(a < 1, small, large), atol=1e-12)
    assert gamma == pytest.approx(alpha * math.log(b + 1))


@settings(deadline=None, max_examples=60)
@given(parameters)
def test_value_and_slope_are_continuous_at_beta(p):
    alpha, gamma, beta = p
    step = 1e-9 * beta
    value, gradient = value_and_gradient([beta - step, beta, beta + step], alpha, gamma, beta)
    assert value.diff().abs().max() <= 2 * gamma * step + 1e-12
    torch.testing.assert_close(gradient, torch.full_like(gradient, gamma), rtol=1e-6, atol=0)


@settings(deadline=None, max_examples=60)
@given(parameters, st.lists(st.floats(0, 50), min_size=2, max_size=20))
def test_loss_is_symmetric_monotonic_and_convex(p, errors):
    x = torch.tensor(sorted(errors), dtype=torch.float64)
    value, gradient = value_and_gradient(x, *p)
    mirrored, opposite = value_and_gradient(-x, *p)
    assert (value.diff() >= -1e-12).all()
    assert (gradient.diff() >= -1e-12).all()
    assert (gradient <= p[1] + 1e-9).all()
    assert (value >= -1e-12).all()
    torch.testing.assert_close(value, mirrored)
    torch.testing.assert_close(gradient, -opposite)


def test_alpha_promotes_inliers_and_gamma_bounds_outliers():
    inlier, outlier = torch.tensor([0.3]), torch.tensor([5.0])
    # A smaller α increases the gradient of inliers and does not change that of outliers (paper, figure 5).
    gradients = [value_and_gradient(torch.cat([inlier, outlier]), alpha, 1.5)[1] for alpha in (0.2, 0.5, 1.0)]
    assert gradients[0][0] > gradients[1][0] > gradients[2][0] > 0.3
    assert all(g[1] == 1.5 for g in gradients)


@pytest.mark.parametrize("variant", ["paper", "mmdet"])
@pytest.mark.parametrize(("alpha", "gamma", "beta"), COMBOS)
def test_gradcheck(alpha, gamma, beta, variant):
    x = torch.tensor([-4.0, -0.5 * beta, -1e-3, 0.04, 0.7 * beta, 1.2 * beta, 9.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda e: balanced_l1_loss(e, alpha, gamma, beta, variant), x.requires_grad_(), eps=1e-7
    )


@pytest.mark.parametrize("variant", ["paper", "mmdet"])
@pytest.mark.parametrize(("alpha", "gamma", "beta"), COMBOS)
def test_gradients_are_finite_at_zero_and_at_huge_errors(alpha, gamma, beta, variant):
    x = torch.tensor([0.0, 1e-30, 1e4, 1e20, -1e30, float("inf")], requires_grad=True)
    value = balanced_l1_loss(x, alpha, gamma, beta, variant)
    value.sum().backward()
    assert value[:-1].isfinite().all()
    assert x.grad.isfinite().all()
    assert x.grad[0] == 0
    assert x.grad[-1] == pytest.approx(gamma)


def test_mmdet_variant_matches_mmdetection(parity):
    z = parity("balanced_l1")
    error = z["pred"] - z["target"]
    for i, (alpha, gamma, beta) in enumerate(z["combos_alpha_gamma_beta"].tolist()):
        for variant in ["mmdet", "paper"] if beta == 1 else ["mmdet"]:
            x = error.clone().requires_grad_()
            loss = balanced_l1_loss(x, alpha, gamma, beta, variant)
            torch.testing.assert_close(loss, z["loss_none"][i], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(torch.autograd.grad(loss.sum(), x)[0], z["grad_of_sum"][i], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(loss.sum(), z["sum"][i], atol=1e-2, rtol=1e-4)
            torch.testing.assert_close(
                2 * (loss * z["weight"]).sum() / 37, z["weighted_avg37_lw2"][i], rtol=1e-4, atol=0
            )


def test_gradient_of_the_mmdet_variant_does_not_vanish_where_beta_is_not_one():
    """Its gradient does not vanish with the error: 4.05 at 0 for β = 0.11; the default's does."""
    tiny = [1e-12]
    assert value_and_gradient(tiny, 0.5, 1.5, 0.11, "mmdet")[1].item() == pytest.approx(4.05, abs=0.01)
    assert value_and_gradient(tiny, 0.5, 1.5, 0.11)[1].item() == pytest.approx(0, abs=1e-8)


def test_module_averages_over_rows():
    torch.manual_seed(0)
    predictions, targets = torch.randn(7, 4, requires_grad=True), torch.randn(7, 4)
    loss = BalancedL1Loss(0.4, 1.2, 0.5)(predictions, targets)
    rows = [balanced_l1_loss(p - t, 0.4, 1.2, 0.5).sum() for p, t in zip(predictions, targets, strict=True)]
    torch.testing.assert_close(loss, sum(rows) / 7)
    empty = BalancedL1Loss()(predictions[:0], targets[:0])
    empty.backward()
    assert empty == 0
    assert (predictions.grad == 0).all()
