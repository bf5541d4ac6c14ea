"""Convolutions whose weights are stored in oneDNN's own order, with what follows them, for inference on a CPU."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

UNUSED_BYTES = (slice(108, 112), slice(316, 320), slice(420, 424))
"""Padding between the members of oneDNN's memory descriptor, whose bytes are not set."""


def weight_order(packed: Tensor) -> bytes:
    """Return what is equal for two packed weights of one layer if they have the same order in memory."""
    descriptor = torch.ops.mkldnn._get_mkldnn_serialized_md(packed).clone()
    for own in UNUSED_BYTES:
        descriptor[own] = 0
    return bytes(descriptor.tolist())


class PackedConv2d(nn.Module):
    """A convolution, the sum of its output and another map, and the activation after it, in one pass over memory.

    Args:
        weight: of the convolution, with channels last in memory.
        bias: of the convolution.
        stride, padding, dilation: of the convolution, for both axes.
        groups: of the convolution.
        activation: oneDNN's name of the activation, "relu", "hardswish" or "swish"; "none" without one.
        input_shape: of inputs that weights are packed for; others can be computed.
    """

    def __init__(
        self,
        weight: Float[Tensor, "Co Ci _ _"],
        bias: Float[Tensor, " Co"] | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        activation: str,
        input_shape: Sequence[int],
    ) -> None:
        super().__init__()
        sizes = list(padding), list(stride), list(dilation), groups
        weight = weight.detach().contiguous(memory_format=torch.channels_last)
        # Not buffers: a packed tensor can neither be copied nor moved.
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *sizes, list(input_shape))
        self.bias = None if bias is None else bias.detach()
        self.sizes, self.activation = sizes, activation

    def forward(
        self, x: Float[Tensor, "1 Ci Hi Wi"], other: Float[Tensor, "1 Co Ho Wo"] | None = None
    ) -> Float[Tensor, "1 Co Ho Wo"]:
        """Return the output; ``other`` is added before the activation, and its memory becomes that of the output."""
        arguments = (x, self.packed, self.bias, *self.sizes)
        if other is None:
            return torch.ops.mkldnn._convolution_pointwise(*arguments, self.activation, [], "")
        activation = None if self.activation == "none" else self.activation
        return torch.ops.mkldnn._convolution_pointwise_.binary(other, *arguments, "add", 1.0, activation, [], None)
