"""Which of a detector's candidates leave it: all kinds of suppression behind one call."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from libradet.geometry.guided_suppression import guided_suppress
from libradet.geometry.soft_suppression import soft_suppress
from libradet.geometry.suppression import suppress
from libradet.models.config import DetectionConfig
from libradet.models.samples import take


class Survivors(NamedTuple):
    """Attributes:
    rows: of the candidates that are left, best first, 0 in slots that are empty.
    scores: perhaps others than they had.
    kept: which slots are filled.
    """

    rows: Int[Tensor, "B K"]
    scores: Float[Tensor, "B K"]
    kept: Bool[Tensor, "B K"]


def survivors(
    boxes: Float[Tensor, "B N 4"],
    scores: Float[Tensor, "B N"],
    labels: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    config: DetectionConfig,
    quality: Float[Tensor, "B N"] | None = None,
) -> Survivors:
    """The ``config.total`` best that are left when the candidates of each class have suppressed each other.

    Args:
        quality: expected IoU of each box with its object, if suppression is to be guided by it.
    """
    candidates = boxes, scores, labels, valid
    if quality is not None:
        guided = guided_suppress(boxes, scores, quality, labels, valid, threshold=config.nms, size=config.total)
        return Survivors(*guided)
    if config.suppression == "nms":
        rows, kept = suppress(*candidates, threshold=config.nms, size=config.total)
        return Survivors(rows, take(scores, rows), kept)
    soft = {"threshold": config.nms, "sigma": config.sigma, "floor": config.floor, "size": config.total}
    decay = "linear" if config.suppression == "soft_linear" else "gaussian"
    return Survivors(*soft_suppress(*candidates, decay=decay, **soft))
