"""What a detector computes between image and detections, seen from outside."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from libradet.models.dense_head import DenseOutput
from libradet.models.detector import Detector
from libradet.models.rpn import RPNOutput


@dataclass
class Seen:
    """The last batch that passed.

    Attributes:
        pyramid: levels as the pyramid gives them.
        balanced: levels as the heads read them; the same ones where nothing balances them.
        rpn, dense: predictions for every anchor.
    """

    pyramid: list[Tensor] = field(default_factory=list)
    balanced: list[Tensor] = field(default_factory=list)
    rpn: RPNOutput | None = None
    dense: DenseOutput | None = None


@contextmanager
def without_masks(model: Detector) -> Iterator[None]:
    """Its boxes alone, as long as it lasts."""
    mask, model.mask = model.mask, None
    try:
        yield
    finally:
        model.mask = mask


@contextmanager
def watching(model: Detector) -> Iterator[Seen]:
    """Keeps what the parts of ``model`` give, as long as it lasts."""
    seen = Seen()

    def pyramid(module: Any, inputs: Any, output: list[Tensor]) -> None:
        # Gradients are wanted of the levels even where every layer below them is frozen.
        for level in output:
            if not level.requires_grad and not level.is_inference():
                level.requires_grad_()
        seen.pyramid = seen.balanced = list(output)

    def balanced(module: Any, inputs: Any, output: list[Tensor]) -> None:
        seen.balanced = list(output)

    def rpn(module: Any, inputs: Any, output: RPNOutput) -> None:
        seen.rpn = output

    def dense(module: Any, inputs: Any, output: DenseOutput) -> None:
        seen.dense = output

    parts = ((model.pyramid, pyramid), (model.balance, balanced), (model.rpn, rpn), (model.dense, dense))
    handles = [part.register_forward_hook(keep) for part, keep in parts if part is not None]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
