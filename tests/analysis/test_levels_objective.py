"""Gradient shares of inliers and outliers, against closed forms."""

import math

import numpy as np
import pytest
import torch

from libradet.analysis.levels.objective import (
    BINS,
    LOSSES,
    RegressionErrors,
    distribution,
    gradient_magnitude,
    gradient_shares,
    is_inlier,
    loss_curves,
    own_loss,
)
from libradet.models.config import BoxLossConfig

ERRORS = torch.tensor([[0.1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, -1.0, 0.2, 0], [3.0, 0, 0, -2.0]])
"""Smooth L1 losses 0.005, 0.25, 0.52 and 4: three inliers, one outlier."""


def balanced_slope(x, alpha, gamma):
    b = math.exp(gamma / alpha) - 1
    return np.where(np.abs(x) < 1, alpha * np.log(b * np.abs(x) + 1), gamma)


@pytest.mark.parametrize("at", [0.0, 0.3, 0.999, 1.5, -2.0])
def test_gradients_match_the_formulas(at):
    error = torch.tensor([at], dtype=torch.float64)
    assert gradient_magnitude(LOSSES["smooth_l1"], error).item() == pytest.approx(min(abs(at), 1))
    assert gradient_magnitude(LOSSES["l1"], error).item() == (0 if at == 0 else 1)
    assert gradient_magnitude(LOSSES["balanced_l1_0.5_1.5"], error).item() == pytest.approx(
        float(balanced_slope(at, 0.5, 1.5))
    )


def test_gradients_are_available_in_inference_mode():
    with torch.inference_mode():
        assert gradient_magnitude(LOSSES["l1"], torch.ones(2)).tolist() == [1, 1]


def test_inliers_have_a_loss_below_one():
    assert is_inlier(ERRORS).tolist() == [True, True, True, False]


def test_shares_of_the_gradient():
    result = gradient_shares(LOSSES, ERRORS, np.zeros(4, np.int64), 1, seed=0)
    smooth, l1 = result["smooth_l1"], result["l1"]
    # Gradients of the samples: 0.1, 1.0, 1.2 and 2.
    assert smooth["share"]["value"] == pytest.approx(2.3 / 4.3)
    assert smooth["ratio"] == pytest.approx((2.3 / 3) / 2)
    assert smooth["coordinates"] == pytest.approx((0.1 + 0.5 + 0.5 + 0.2) / 4.3)
    # One for every delta that is not 0.
    assert l1["share"]["value"] == pytest.approx(5 / 7)
    assert l1["ratio"] == pytest.approx((5 / 3) / 2)
    own = balanced_slope(ERRORS.numpy(), 0.5, 1.5).sum(1)
    assert result["balanced_l1_0.5_1.5"]["share"]["value"] == pytest.approx(own[:3].sum() / own.sum(), rel=1e-5)
    assert result["balanced_l1_0.5_1.5"]["ratio"] == pytest.approx(own[:3].mean() / own[3], rel=1e-5)


def test_without_outliers_there_is_no_ratio():
    result = gradient_shares(LOSSES, ERRORS[:3], np.zeros(3, np.int64), 1, seed=0)
    assert result["smooth_l1"]["ratio"] is None
    assert result["smooth_l1"]["share"]["value"] == 1


def test_distribution_of_errors_and_of_their_gradient():
    result = distribution(ERRORS)
    assert result["deltas"] == 16
    # |error|: nine zeros and 0.1, 0.2, 0.5, 0.5, 1, 2, 3.
    assert result["shares"][0] == pytest.approx(9 / 16)
    assert sum(result["shares"]) == pytest.approx(1)
    assert result["shares"][-1] == pytest.approx(1 / 16), "the last bin holds all that is larger"
    at_half = np.searchsorted(BINS, 0.5 + 1e-9) - 1
    assert result["shares"][at_half] == pytest.approx(2 / 16)
    assert result["gradient"]["smooth_l1"][at_half] == pytest.approx(1 / 4.3)
    assert sum(result["gradient"]["balanced_l1_0.5_1.5"]) == pytest.approx(1)


def test_curves_are_the_papers_figure():
    result = loss_curves()
    at = result["error"].index(1.0)
    assert result["gradient"]["smooth_l1"][at] == 1
    assert result["gradient"]["balanced_l1_0.5_1.5"][at] == 1.5
    assert result["loss"]["l1"][at] == 1
    assert result["loss"]["smooth_l1"][at] == 0.5
    b = math.exp(3) - 1
    assert result["loss"]["balanced_l1_0.5_1.5"][-1] == pytest.approx(1.5 * 2 + 1.5 / b - 0.5)


def test_errors_are_counted_in_units_of_beta_image_by_image():
    statistics = RegressionErrors(0.5, BoxLossConfig(beta=0.5))
    errors = torch.stack([ERRORS * 0.5, torch.full((4, 4), 99.0)])
    statistics.update(errors, torch.tensor([[True] * 4, [False] * 4]))
    result = statistics.compute(seed=0)
    assert result["positives"] == 4
    assert result["inliers"]["value"] == 0.75
    assert result["losses"]["smooth_l1"]["share"]["value"] == pytest.approx(2.3 / 4.3)
    assert result["losses"]["own"] == result["losses"]["smooth_l1"]


def test_no_positives_at_all():
    statistics = RegressionErrors(1.0, BoxLossConfig())
    statistics.update(torch.zeros(1, 3, 4), torch.zeros(1, 3, dtype=torch.bool))
    result = statistics.compute(seed=0)
    assert result["positives"] == 0
    assert result["inliers"]["value"] is None
    assert result["losses"]["own"]["share"]["value"] is None


def test_the_models_own_loss():
    error = torch.tensor([0.2, 0.9, 3.0], dtype=torch.float64)
    own = own_loss(BoxLossConfig(type="balanced_l1", alpha=0.4, gamma=1.2, beta=0.11), beta=0.11)
    assert gradient_magnitude(own, error).numpy() == pytest.approx(balanced_slope(error.numpy(), 0.4, 1.2))
    assert own_loss(BoxLossConfig(type="l1"), 1.0) is LOSSES["l1"]
    assert own_loss(BoxLossConfig(type="smooth_l1", beta=0.0), 1.0) is LOSSES["l1"]
    assert own_loss(BoxLossConfig(type="giou"), 1.0) is None
