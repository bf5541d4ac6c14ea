"""Objective level (paper 3.3): balanced L1."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn


def balanced_l1_loss(
    error: Float[Tensor, "*N"],
    alpha: float = 0.5,
    gamma: float = 1.5,
    beta: float = 1.0,
    variant: Literal["paper", "mmdet"] = "paper",
) -> Float[Tensor, "*N"]:
    """Return the balanced L1 loss of each error (paper 3.3, equations 5 to 9), without reduction.

    With b = exp(γ/α) - 1 and x = |error|::

        x < β:  α/b * (bx + β) * ln(bx/β + 1) - αx        gradient α * ln(bx/β + 1)
        else:   γx + γβ/b - αβ                            gradient γ

    Value and slope are continuous at β; the paper has β = 1. A smaller α increases the gradient of accurate samples
    (inliers), and γ bounds the gradient of outliers.

    Args:
        error: predicted minus target deltas.
        beta: error at which the linear part starts; above 0.
        variant: ``"mmdet"`` reproduces mmdetection's formula, which differs where β ≠ 1: its gradient
            does not vanish with the error, and its value jumps at β.
    """
    x = error.abs()
    b = math.expm1(gamma / alpha)
    offset = beta if variant == "paper" else 1.0
    # The branch that where() does not select must stay finite: its gradient would be 0 times infinity, which is NaN.
    inner = x.clamp(max=beta)
    small = alpha / b * (b * inner + offset) * torch.log1p(b * inner / beta) - alpha * inner
    large = gamma * x + gamma * offset / b - alpha * beta
    return torch.where(x < beta, small, large)


class BalancedL1Loss(nn.Module):
    """:func:`balanced_l1_loss` between predictions and targets, summed over coordinates and averaged over rows."""

    def __init__(self, alpha: float = 0.5, gamma: float = 1.5, beta: float = 1.0) -> None:
        super().__init__()
        self.alpha, self.gamma, self.beta = alpha, gamma, beta

    def forward(self, predictions: Float[Tensor, "N 4"], targets: Float[Tensor, "N 4"]) -> Float[Tensor, ""]:
        """Return the loss; 0 if there are no rows."""
        loss = balanced_l1_loss(predictions - targets, self.alpha, self.gamma, self.beta)
        return loss.sum() / max(len(predictions), 1)
