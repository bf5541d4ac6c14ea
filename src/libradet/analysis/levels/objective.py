"""Objective level (paper 3.3): the regression errors that the gradient of a box regression loss comes from."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from libradet.analysis.uncertainty import estimate
from libradet.balance import balanced_l1_loss
from libradet.models.config import BoxLossConfig

Loss = Callable[[Tensor], Tensor]


def _smooth_l1(error: Tensor) -> Tensor:
    return F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=1.0)


SETTINGS = ((0.5, 1.5), (0.5, 1.0), (0.5, 2.0), (0.3, 1.0), (0.2, 1.0))
"""α and γ of the paper's Table 6, its default first."""

LOSSES: dict[str, Loss] = {"smooth_l1": _smooth_l1, "l1": torch.abs} | {
    f"balanced_l1_{alpha}_{gamma}": partial(balanced_l1_loss, alpha=alpha, gamma=gamma) for alpha, gamma in SETTINGS
}
"""Losses by name, of errors in units of β, the error at which the linear part of smooth and balanced L1 begins."""

OWN = "own"
"""Key of the loss that the model was trained with, in addition to those above."""

CURVE = np.linspace(0, 2, 41)
BINS = np.linspace(0, 3, 31)


def own_loss(config: BoxLossConfig, beta: float) -> Loss | None:
    """Return the model's own loss of errors in units of ``beta``; None if it compares boxes instead of deltas."""
    if config.type in ("l1", "smooth_l1"):
        return LOSSES["smooth_l1" if config.type == "smooth_l1" and config.beta else "l1"]
    if config.type != "balanced_l1":
        return None
    shape = {"alpha": config.alpha, "gamma": config.gamma, "beta": config.beta, "variant": config.variant}
    return lambda error: balanced_l1_loss(error * beta, **shape) / beta


def gradient_magnitude(loss: Loss, error: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Return the magnitude of the gradient of ``loss`` at each error."""
    with torch.inference_mode(False), torch.enable_grad():
        at = error.detach().clone().requires_grad_()
        return torch.autograd.grad(loss(at).sum(), at)[0].abs()


def loss_curves() -> dict[str, Any]:
    """Return value and gradient of each loss as functions of the error (the paper's Figure 5)."""
    at = torch.from_numpy(CURVE)
    return {
        "error": CURVE.tolist(),
        "loss": {name: loss(at).tolist() for name, loss in LOSSES.items()},
        "gradient": {name: gradient_magnitude(loss, at).tolist() for name, loss in LOSSES.items()},
    }


def is_inlier(errors: Float[Tensor, "N 4"]) -> Tensor:
    """Return whether the smooth L1 loss of each sample, summed over four deltas, is below 1.0 (the paper's inliers)."""
    return _smooth_l1(errors).sum(1) < 1.0


def gradient_shares(
    losses: dict[str, Loss], errors: Float[Tensor, "N 4"], owner: Int[ndarray, " N"], images: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Return the contribution of inliers to the gradient of each loss.

    Args:
        errors: regression errors of positives, in units of β.
        owner: index of the image of each.

    Returns:
        name -> ``share``: share of the gradient (sum of absolute values) from inliers; ``ratio``: mean gradient of an
        inlier over that of an outlier, None if one of them is missing; ``coordinates``: share of the gradient from
        single deltas below β.
    """
    inlier = is_inlier(errors).numpy()
    shares = {}
    for name, loss in losses.items():
        single = gradient_magnitude(loss, errors)
        sizes = single.sum(1).numpy().astype(np.float64)
        from_inliers = np.bincount(owner, sizes * inlier, minlength=images)
        in_total = np.bincount(owner, sizes, minlength=images)
        both = inlier.any() and not inlier.all() and sizes[~inlier].any()
        total = float(single.sum())
        shares[name] = {
            "share": estimate(from_inliers, in_total, seed),
            "ratio": float(sizes[inlier].mean() / sizes[~inlier].mean()) if both else None,
            "coordinates": float(single[errors.abs() < 1].sum()) / total if total else None,
        }
    return shares


def distribution(errors: Float[Tensor, "N 4"]) -> dict[str, Any]:
    """Return the histogram of absolute errors, and of the gradient by error; the last bin is open-ended."""
    size = errors.abs().flatten().double()
    which = torch.bucketize(size, torch.from_numpy(BINS[1:-1]), right=True)
    weights = {name: gradient_magnitude(LOSSES[name], size) for name in ("smooth_l1", "balanced_l1_0.5_1.5")}
    number = len(BINS) - 1
    count = torch.bincount(which, minlength=number).double()
    by_gradient = {name: torch.bincount(which, w, minlength=number) for name, w in weights.items()}
    return {
        "edges": BINS.round(2).tolist(),
        "deltas": len(size),
        "shares": _normed(count),
        "gradient": {name: _normed(value) for name, value in by_gradient.items()},
        "median": [float(m) for m in errors.abs().median(0).values] if len(errors) else [None] * 4,
    }


def _normed(values: Tensor) -> list[float]:
    total = float(values.sum())
    return [v / total if total else 0.0 for v in values.tolist()]


class RegressionErrors:
    """Regression errors of the positives of a stage, accumulated over images.

    Args:
        beta: unit of the errors.
        config: the stage's own loss.
    """

    def __init__(self, beta: float, config: BoxLossConfig) -> None:
        self.beta = beta
        own = own_loss(config, beta)
        self.losses = LOSSES | ({OWN: own} if own else {})
        self.images = 0
        self._errors: list[Tensor] = []
        self._owner: list[Tensor] = []

    def update(self, errors: Float[Tensor, "B N 4"], positive: Tensor) -> None:
        """Add the errors of a batch, and the mask of positives."""
        image = torch.arange(len(errors))[:, None].expand(positive.shape) + self.images
        self._errors.append(errors[positive].float() / self.beta)
        self._owner.append(image[positive])
        self.images += len(errors)

    def compute(self, seed: int) -> dict[str, Any]:
        """Return the numbers for the report."""
        errors, owner = torch.cat(self._errors), torch.cat(self._owner).numpy()
        inlier = is_inlier(errors)
        images = self.images
        counts = np.bincount(owner, inlier.numpy(), minlength=images), np.bincount(owner, minlength=images)
        return {
            "beta": self.beta,
            "positives": len(errors),
            "inliers": estimate(*counts, seed),
            "losses": gradient_shares(self.losses, errors, owner, images, seed),
            "distribution": distribution(errors),
        }
