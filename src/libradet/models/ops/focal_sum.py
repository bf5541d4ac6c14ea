"""The focal loss summed over all anchors and classes, with its gradient, in one pass on a CPU.

Millions of logits pass through a dozen operations, each of which would read and write main memory and keep its result
for the backward pass. Here, a block of rows passes through all of them while it is in the processor's cache, and the
gradient, which has a closed form, is computed with the loss.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

BLOCK_ELEMENTS = 1 << 16
"""Logits per block: a few buffers of 256 KiB fit into a core's cache, and two threads have work."""


def is_supported(logits: Float[Tensor, "B N C"]) -> bool:
    """Return whether gradients are recorded, one by one on a CPU; a compiler fuses the operations itself."""
    return torch.is_grad_enabled() and logits.device.type == "cpu" and not torch.compiler.is_compiling()


def focal_sum(
    logits: Float[Tensor, "B N C"],
    labels: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    alpha: float,
    gamma: float,
) -> Float[Tensor, ""]:
    """Return the sum of the focal losses of valid candidates; see :func:`libradet.models.losses.focal_losses`."""
    return _FocalSum.apply(logits, labels, valid, alpha, gamma)


class _FocalSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, valid: Tensor, alpha: float, gamma: float) -> Tensor:
        rows, gradient = logits.flatten(0, 1), torch.empty_like(logits, memory_format=torch.contiguous_format)
        height = max(1, BLOCK_ELEMENTS // max(1, logits.shape[2]))
        columns = labels.flatten()[:, None], valid.flatten()[:, None]
        blocks = zip(*(x.split(height) for x in (rows, *columns, gradient.flatten(0, 1))), strict=True)
        sums = [_block(x, label, is_valid, out, alpha, gamma) for x, label, is_valid, out in blocks]
        ctx.save_for_backward(gradient)
        return torch.stack(sums).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0], None, None, None, None


def _block(
    logits: Float[Tensor, "R C"],
    labels: Int[Tensor, "R 1"],
    valid: Bool[Tensor, "R 1"],
    gradient: Float[Tensor, "R C"],
    alpha: float,
    gamma: float,
) -> Float[Tensor, ""]:
    """Write the gradient of a block's logits and return its sum of losses.

    With z = x for a class that a candidate is not and z = -x for its own, and e = sigmoid(z), the loss is
    e^γ softplus(z) and its derivative by z is e^γ (e + γ (1 - e) softplus(z)), times α or 1 - α.
    """
    own = labels.clamp(max=logits.shape[1] - 1)
    positive = labels == own
    own_logit = logits.gather(1, own)
    # Every class is a negative, but for the own one of each row, whose values are exchanged.
    z = logits.scatter(1, own, own_logit.where(~positive, -own_logit))
    cross_entropy, error = F.softplus(z), z.sigmoid_()
    focus = error.square() if gamma == 2 else error.pow(gamma)
    losses = focus * cross_entropy
    slope = torch.addcmul(error, 1 - error, cross_entropy, value=gamma).mul_(focus)
    own_loss, own_slope = losses.gather(1, own), slope.gather(1, own)
    negative_weight, positive_weight = valid * (1 - alpha), valid * alpha
    torch.mul(slope, negative_weight, out=gradient)
    gradient.scatter_(1, own, torch.where(positive, -own_slope * positive_weight, own_slope * negative_weight))
    losses.scatter_(1, own, own_loss.where(~positive, 0))
    sums = losses.sum(1, keepdim=True) * negative_weight + own_loss.where(positive, 0) * positive_weight
    return sums.where(valid, 0).sum()
