"""Weights of losses that are learned with everything else (Kendall, Gal and Cipolla, CVPR 2018)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from libradet.models.config import DetectorConfig


class LearnedWeights(nn.Module):
    """A logarithm s of a variance for each loss, from 0 on: a loss L counts exp(-s) * L + s.

    Kendall's own forms, ½ exp(-s) L + ½ s for regression and exp(-s) L + ½ s for classification, are half of that,
    up to a constant, and the latter with s shifted by ln 2: their minima weigh losses against each other alike.
    Without the factors, training starts from the weights that the configuration gives.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.log_variances = nn.Parameter(torch.zeros(len(names)))

    def forward(self, losses: dict[str, Float[Tensor, ""]]) -> dict[str, Float[Tensor, ""]]:
        """Each loss as it counts.

        A loss of exactly 0, that of a batch without positives, says nothing of its variance and moves none:
        its weight would grow without end.
        """
        assert losses.keys() == set(self.names), "loss_names names all losses"
        return {
            name: (-s).exp() * losses[name] + torch.where(losses[name] == 0, s.detach(), s)
            for name, s in zip(self.names, self.log_variances.unbind(), strict=True)
        }

    def by_name(self) -> dict[str, Float[Tensor, ""]]:
        """The variances' logarithms as ``log_variance_LOSS``, for logs."""
        return {f"log_variance_{name}": s for name, s in zip(self.names, self.log_variances.unbind(), strict=True)}


def learned_weights(config: DetectorConfig) -> LearnedWeights | None:
    """Those of a detector, if it has some."""
    return LearnedWeights(loss_names(config)) if config.learned_weights else None


def loss_names(config: DetectorConfig) -> list[str]:
    """What the losses of a detector are called, in the order of its road."""
    if config.dense is not None:
        return ["class", "box"]
    names = ["rpn_class", "rpn_box"] if config.rpn else []
    if config.roi is not None:
        stages = [""] if config.cascade is None else [f"_{k}" for k, _ in enumerate(config.cascade.ious, start=1)]
        names += [f"{kind}{stage}" for stage in stages for kind in ("class", "box")]
        names += [f"iou{stages[-1]}"] if config.roi.iou else []
    return names + (["mask"] if config.mask else [])
