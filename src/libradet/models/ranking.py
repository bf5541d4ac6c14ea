"""Which candidates of a level go on to suppression."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Rank = Literal["logits", "scores"]
"""What candidates are sorted by. In 32 bits many high logits have the same score, and those above 17 all have 1:
sorted by ``scores``, as mmdetection does, the first of equals comes first."""


def best(logits: Float[Tensor, "B N"], count: int, by: Rank) -> Int[Tensor, "B K"]:
    """Rows of the (at most) ``count`` best candidates, best first."""
    count = min(count, logits.shape[1])
    if by == "logits":
        return logits.topk(count, dim=1).indices
    scores = logits.sigmoid()
    if not torch.compiler.is_exporting():
        # topk leaves open which of equals it takes. This shrinks each score by less than it differs from the next.
        first = 1 - torch.arange(scores.shape[1], dtype=torch.float64, device=scores.device) * 2**-52
        scores = scores * first
    return scores.topk(count, dim=1).indices


def rank(logits: Float[Tensor, "*N"], by: Rank) -> Float[Tensor, "*N"]:
    """What suppression sorts by."""
    return logits if by == "logits" else logits.sigmoid()
