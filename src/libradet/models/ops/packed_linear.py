"""Linear layers whose weights are stored in oneDNN's own order, for inference on a CPU."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

PACK_ROWS = 512
"""Rows of the input that the order is chosen for; any number of rows can be computed."""


class PackedLinear(nn.Module):
    """A linear layer with packed weights.

    torch computes float32 layers in MKL, which is slower than oneDNN on AMD processors: for the first layer of a box
    head, by a fifth.

    Args:
        weight, bias: of a layer on the CPU.
    """

    def __init__(self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None) -> None:
        super().__init__()
        # Not a buffer: a packed tensor can neither be copied nor moved.
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), PACK_ROWS)
        self.bias = bias

    def forward(self, x: Float[Tensor, "N inputs"]) -> Float[Tensor, "N outputs"]:
        """Return the layer's output."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def pack_linear_layers(module: nn.Module) -> None:
    """Replace, in place, every linear layer in float32; do nothing where torch has no oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return
    for name, child in module.named_children():
        if type(child) is nn.Linear and child.weight.dtype == torch.float32 and child.weight.device.type == "cpu":
            setattr(module, name, PackedLinear(child.weight, child.bias))
        else:
            pack_linear_layers(child)
