"""Uncertainty weighting of losses (Kendall, Gal and Cipolla, CVPR 2018)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from libradet.models.config import DetectorConfig


class UncertaintyWeighting(nn.Module):
    """A trainable log variance s of each loss, initialized with 0: a loss L becomes exp(-s) * L + s.

    Kendall's own forms, ½ exp(-s) L + ½ s for regression and exp(-s) L + ½ s for classification, are half of that, up
    to a constant, and the latter with s shifted by ln 2: at their minima, losses have the same relative weights.
    Without the factors, training starts from the weights of the configuration.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.log_variances = nn.Parameter(torch.zeros(len(names)))

    def forward(self, losses: dict[str, Float[Tensor, ""]]) -> dict[str, Float[Tensor, ""]]:
        """Return the weighted losses.

        A loss of exactly 0, that of a batch without positives, has no gradient with respect to its variance: its weight
        would grow without bound.
        """
        assert losses.keys() == set(self.names), "loss_names names all losses"
        return {
            name: (-s).exp() * losses[name] + torch.where(losses[name] == 0, s.detach(), s)
            for name, s in zip(self.names, self.log_variances.unbind(), strict=True)
        }

    def by_name(self) -> dict[str, Float[Tensor, ""]]:
        """Return the log variances as ``log_variance_LOSS``, for logging."""
        return {f"log_variance_{name}": s for name, s in zip(self.names, self.log_variances.unbind(), strict=True)}


def build_uncertainty_weighting(config: DetectorConfig) -> UncertaintyWeighting | None:
    """Build the weighting of a detector's losses; None if its configuration has none."""
    return UncertaintyWeighting(loss_names(config)) if config.uncertainty_weighting else None


def loss_names(config: DetectorConfig) -> list[str]:
    """Return the names of a detector's losses, in the order in which it computes them."""
    if config.retinanet is not None:
        return ["class", "box"]
    names = ["rpn_class", "rpn_box"] if config.rpn else []
    if config.roi is not None:
        stages = (
            [""] if config.cascade is None else [f"_{k}" for k, _ in enumerate(config.cascade.iou_thresholds, start=1)]
        )
        names += [f"{kind}{stage}" for stage in stages for kind in ("class", "box")]
        names += [f"iou{stages[-1]}"] if config.roi.iou else []
    return names + (["mask"] if config.mask else [])
