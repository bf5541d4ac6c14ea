"""3 x 3 convolutions by Winograd's minimal filtering in five library calls for each block of tiles, for a CPU.

:mod:`libradet.models.ops.winograd` writes the transforms as sums for a compiler to fuse. Here they are products with a
constant matrix, [36, 36] for inputs and [16, 36] for outputs, which cost a fifth of the products over channels, and the
36 products over channels are one convolution of 36 groups. A block of tiles is small enough for the processor's cache,
so that its memory is written and read there.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from libradet.models.ops.winograd import INPUT_SUMS, KERNEL_SUMS, OUTPUT_SUMS, SPAN, TILE

BLOCK_VALUES = 80 * 256
"""Tiles of a block times input channels; more would not fit into a cache of 1 MiB for each core."""

MIN_CHANNELS, MIN_TILES = 128, 15
"""With fewer channels, the transforms cost what is saved; with fewer tiles, reading 36 weights in place of 9 does."""

BIAS_POSITION = 7
"""A value at this position, the second row and column of 6, is added to all outputs of a tile."""


class TiledWinograd(nn.Module):
    """A 3 x 3 convolution of stride 1 that pads by one pixel, and the ReLU after it, for inference on one image.

    Args:
        weight: of the convolution, in float32.
        bias: of the convolution.
        relu: whether a ReLU follows.
        size: height and width of the inputs that weights are packed for; others can be computed.
    """

    def __init__(
        self,
        weight: Float[Tensor, "Co Ci 3 3"],
        bias: Float[Tensor, " Co"] | None,
        relu: bool,
        size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.outputs, self.inputs = weight.shape[:2]
        self.relu = relu
        # Transformed in float64: this is done once.
        kernel_sums = _kronecker_square(KERNEL_SUMS, torch.float64)
        kernels = kernel_sums @ weight.detach().permute(2, 3, 0, 1).reshape(9, -1).double()
        kernels = kernels.float().view(-1, self.inputs, 1, 1)
        rows, columns = (-(-side // TILE) for side in size)
        # Not buffers: a packed tensor can neither be copied nor moved.
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(
            kernels, [0, 0], [1, 1], [1, 1], SPAN**2, [1, SPAN**2 * self.inputs, self._step(rows, columns), columns]
        )
        self.bias = None
        if bias is not None:
            self.bias = bias.new_zeros(SPAN**2, self.outputs)
            self.bias[BIAS_POSITION] = bias.detach()
            self.bias = self.bias.flatten()
        self.input_sums = _kronecker_square(INPUT_SUMS, torch.float32)
        self.output_sums = _kronecker_square(OUTPUT_SUMS, torch.float32)

    def forward(self, x: Float[Tensor, "1 Ci H W"]) -> Float[Tensor, "1 Co H W"]:
        """Return the convolution of ``x``, with channels last in memory."""
        image = x[0].permute(1, 2, 0)
        height, width = image.shape[:2]
        rows, columns = -(-height // TILE), -(-width // TILE)
        step = self._step(rows, columns)
        block = _Block(step, columns, self.inputs, self.outputs)
        output = x.new_empty(rows * TILE, columns * TILE, self.outputs)
        tiles = output.view(rows, TILE, columns, TILE, self.outputs)
        for start in range(0, rows, step):
            count = min(step, rows - start)
            block.read(image, start, count)
            products = self._multiply(block, count)
            own = tiles[start : start + count].transpose(1, 2)
            if self.relu:
                torch.clamp_min(products, 0, out=own)
            else:
                own.copy_(products)
        return output[:height, :width].contiguous().permute(2, 0, 1)[None]

    def _multiply(self, block: "_Block", count: int) -> Float[Tensor, "rows columns 4 4 Co"]:
        tiles = count * block.columns
        torch.bmm(self.input_sums.expand(tiles, -1, -1), block.patches[:tiles], out=block.transformed[:tiles])
        pixels = block.transformed[:tiles].view(1, count, block.columns, -1).permute(0, 3, 1, 2)
        products = torch.ops.mkldnn._convolution_pointwise(
            pixels, self.packed, self.bias, [0, 0], [1, 1], [1, 1], SPAN**2, "none", [], ""
        )
        products = products.permute(0, 2, 3, 1).reshape(tiles, SPAN**2, self.outputs)
        torch.bmm(self.output_sums.expand(tiles, -1, -1), products, out=block.outputs[:tiles])
        return block.outputs[:tiles].view(count, block.columns, TILE, TILE, self.outputs)

    def _step(self, rows: int, columns: int) -> int:
        """Return the number of rows of tiles in a block."""
        return min(rows, max(1, round(BLOCK_VALUES / (self.inputs * columns))))


class _Block:
    """Memory for a block of tiles, which is used for one after the other."""

    def __init__(self, rows: int, columns: int, inputs: int, outputs: int) -> None:
        self.columns = columns
        # Zero outside of the image; only the border is not overwritten.
        self.padded = torch.zeros(TILE * rows + SPAN - TILE, TILE * columns + SPAN - TILE, inputs)
        self.patches = torch.empty(rows * columns, SPAN**2, inputs)
        self.transformed = torch.empty_like(self.patches)
        self.outputs = torch.empty(rows * columns, TILE**2, outputs)

    def read(self, image: Float[Tensor, "H W Ci"], start: int, count: int) -> None:
        """Copy the inputs of ``count`` rows of tiles, from row ``start``, to :attr:`patches`."""
        height, width, channels = image.shape
        first = TILE * start - 1
        last = first + TILE * count + SPAN - TILE
        inside = image[max(first, 0) : min(last, height)]
        above = max(first, 0) - first
        self.padded[:above] = 0
        self.padded[above : above + len(inside), 1 : 1 + width] = inside
        self.padded[above + len(inside) :] = 0
        row, column = self.padded.stride()[:2]
        overlapping = self.padded.as_strided(
            (count, self.columns, SPAN, SPAN, channels), (TILE * row, TILE * column, row, column, 1)
        )
        self.patches[: count * self.columns].view(overlapping.shape).copy_(overlapping)


def fits_tiled_winograd(weight: Tensor, height: int, width: int) -> bool:
    """Whether a convolution of stride 1 with this weight is faster by :class:`TiledWinograd` than directly."""
    outputs, inputs, *size = weight.shape
    if weight.dtype != torch.float32 or size != [3, 3] or min(outputs, inputs) < MIN_CHANNELS:
        return False
    # oneDNN's grouped convolutions need whole vectors.
    return inputs % 16 == outputs % 16 == 0 and -(-width // TILE) * -(-height // TILE) >= MIN_TILES


def _kronecker_square(sums: Sequence[Sequence[int | float]], dtype: torch.dtype) -> Float[Tensor, "N M"]:
    matrix = torch.tensor(sums, dtype=dtype)
    return torch.kron(matrix, matrix)
