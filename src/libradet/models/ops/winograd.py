"""3 x 3 convolutions by Winograd's minimal filtering, F(4 x 4, 3 x 3), for compiled inference on a CPU.

A tile of 4 x 4 outputs is computed from 6 x 6 inputs with 36 multiplications in place of 144 (Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks", 2016): inputs and outputs are transformed by sums, and the 36 positions
of a tile are matrix products over channels. The sums are memory-bound, so this pays only where a compiler fuses them.
Rounding errors are about four times those of a direct convolution in float32.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from libradet.models.ops.trained_winograd import TrainedWinogradConv2d
from libradet.models.ops.winograd_transforms import SPAN, TILE, axis_transforms

MIN_CHANNELS = 64
"""With fewer channels, the transforms cost more than the matrix products save."""

POINTS = (0, 1, -1, 2, -2)
"""Where polynomials are evaluated: of whole numbers, sums need the fewest multiplications."""

TRANSFORMS = axis_transforms(POINTS)
# Constants of the compiled graph.
INPUT_SUMS, OUTPUT_SUMS = (
    [[round(factor) for factor in row] for row in matrix.tolist()] for matrix in (TRANSFORMS.inputs, TRANSFORMS.outputs)
)


class WinogradConv2d(nn.Module):
    """A 3 x 3 convolution of stride 1 that pads by one pixel, for inference.

    Args:
        conv: convolution that :func:`fits_winograd`.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        sums = TRANSFORMS.kernels.to(conv.weight.device)
        # Transformed in float64: this is done once.
        kernels = torch.einsum("ia,ocab,jb->ijoc", sums, conv.weight.detach().double(), sums)
        self.kernels = nn.Parameter(kernels.flatten(0, 1).to(conv.weight.dtype).contiguous(), requires_grad=False)
        bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Float[Tensor, "B Ci H W"]) -> Float[Tensor, "B Co H W"]:
        """Return the convolution of ``x``, with channels last in memory."""
        height, width = x.shape[2:]
        products = torch.ops.libradet.winograd_products(_transform_input(x), self.kernels)
        y = _transform_output(products)[:, :height, :width] + self.bias
        return y.permute(0, 3, 1, 2)


def fits_winograd(conv: nn.Module) -> bool:
    """Whether a layer is a convolution that :class:`WinogradConv2d` computes, and faster than directly."""
    if type(conv) not in (nn.Conv2d, TrainedWinogradConv2d):
        return False
    assert isinstance(conv, nn.Conv2d)
    if min(conv.in_channels, conv.out_channels) < MIN_CHANNELS:
        return False
    sizes = conv.kernel_size, conv.stride, conv.padding, conv.dilation
    return sizes == ((3, 3), (1, 1), (1, 1), (1, 1)) and conv.groups == 1 and conv.padding_mode == "zeros"


def use_winograd(module: nn.Module) -> None:
    """Replace, in place, every convolution that :func:`fits_winograd`."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and fits_winograd(child):
            setattr(module, name, WinogradConv2d(child))
        else:
            use_winograd(child)


def _transform_input(x: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "6 B Th Tw C"]]:
    """Return the transformed inputs: a tensor for each row of a tile, with its 6 columns first."""
    height, width = x.shape[2:]
    rows, columns = -(-height // TILE), -(-width // TILE)
    padding = (0, 0, 1, TILE * columns + 1 - width, 1, TILE * rows + 1 - height)
    padded = F.pad(x.permute(0, 2, 3, 1), padding)
    row_inputs = [padded[:, i : i + TILE * rows - TILE + 1 : TILE] for i in range(SPAN)]
    # Stacked, so that a compiler stores these sums instead of repeating them for each column.
    row_sums = torch.stack([_weighted_sum(weights, row_inputs) for weights in INPUT_SUMS])
    transformed = []
    for sums in row_sums:
        inputs = [sums[:, :, j : j + TILE * columns - TILE + 1 : TILE] for j in range(SPAN)]
        transformed.append(torch.stack([_weighted_sum(weights, inputs) for weights in INPUT_SUMS]))
    return transformed


def _transform_output(products: Sequence[Float[Tensor, "B Th Tw C"]]) -> Float[Tensor, "B H W C"]:
    """Return the outputs of all tiles, of which those beyond the image are not needed."""
    columns = [products[j::SPAN] for j in range(SPAN)]
    rows = []
    for row_weights in OUTPUT_SUMS:
        sums = [_weighted_sum(row_weights, column) for column in columns]
        rows.append(torch.stack([_weighted_sum(weights, sums) for weights in OUTPUT_SUMS], 3))
    return torch.stack(rows, 2).flatten(3, 4).flatten(1, 2)


def _weighted_sum(weights: Sequence[int | float], tensors: Sequence[Tensor]) -> Tensor:
    total: Tensor | None = None
    for weight, tensor in zip(weights, tensors, strict=True):
        if weight:
            term = tensor if weight == 1 else tensor * weight
            total = term if total is None else total + term
    assert total is not None
    return total


@torch.library.custom_op("libradet::winograd_products", mutates_args=())
def _winograd_products(transformed: Sequence[Tensor], kernels: Tensor) -> list[Tensor]:
    # As 1 x 1 convolutions, which oneDNN computes, in place of MKL's slower matrix products.
    inputs = [tensor for row in transformed for tensor in row.unbind()]
    pairs = zip(inputs, kernels[..., None, None], strict=True)
    outputs = [F.conv2d(x.permute(0, 3, 1, 2), kernel).permute(0, 2, 3, 1) for x, kernel in pairs]
    return [output.contiguous() for output in outputs]


@_winograd_products.register_fake
def _(transformed, kernels):
    return [row.new_empty((*row.shape[1:4], kernels.shape[1])) for row in transformed for _ in range(SPAN)]
