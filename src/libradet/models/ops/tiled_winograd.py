"""3 x 3 convolutions by Winograd's minimal filtering in five library calls for each block of tiles, for a CPU.

:mod:`libradet.models.ops.winograd` writes the transforms as sums for a compiler to fuse. Here they are products with a
constant matrix, [36, 36] for inputs and [16, 36] for outputs, which cost a fifth of the products over channels, and the
36 products over channels are one convolution of 36 groups. A block of tiles is small enough for the processor's cache,
so that its memory is written and read there.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from libradet.models.ops.winograd_transforms import SPAN, TILE, make_transforms

BLOCK_VALUES = 160 * 256
"""Tiles of a block times input channels: with fewer, products over channels are slower; with more, memory is."""

DTYPES = (torch.float32, torch.bfloat16)

MIN_CHANNELS, MIN_TILES = 128, 15
"""With fewer channels, the transforms cost what is saved; with fewer tiles, reading 36 weights in place of 9 does."""


class TiledWinograd(nn.Module):
    """A 3 x 3 convolution of stride 1 that pads by one pixel, and the ReLU after it, for inference on one image.

    Args:
        weight: of the convolution, in float32 or bfloat16.
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
        self.relu, self.bias = relu, None if bias is None else bias.detach()
        # Transformed in float64: this is done once.
        transforms = make_transforms()
        kernels = transforms.kernels @ weight.detach().permute(2, 3, 0, 1).reshape(9, -1).double()
        kernels = kernels.to(weight.dtype).view(-1, self.inputs, 1, 1)
        rows, columns = (-(-side // TILE) for side in size)
        # Not buffers: a packed tensor can neither be copied nor moved.
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(
            kernels, [0, 0], [1, 1], [1, 1], SPAN**2, [1, SPAN**2 * self.inputs, self._step(rows, columns), columns]
        )
        self.input_sums, self.output_sums = transforms.inputs.to(weight.dtype), transforms.outputs.to(weight.dtype)

    def forward(self, x: Float[Tensor, "1 Ci H W"]) -> Float[Tensor, "1 Co H W"]:
        """Return the convolution of ``x``, with channels last in memory."""
        # Patches are read where they are, from one row after the other.
        image = x.contiguous(memory_format=torch.channels_last)[0].permute(1, 2, 0)
        height, width = image.shape[:2]
        rows, columns = -(-height // TILE), -(-width // TILE)
        step = self._step(rows, columns)
        block = _Block(image, step, self.outputs)
        sums = [matrix.repeat(step * columns, 1, 1) for matrix in (self.input_sums, self.output_sums)]
        output = x.new_empty(rows * TILE, columns * TILE, self.outputs)
        tiles = output.view(rows, TILE, columns, TILE, self.outputs)
        for start in range(0, rows, step):
            # The last block repeats rows of the one before: with fewer, oneDNN may want another order of the weights,
            # and reorders them at every call, which without AVX-512 costs ten times the products.
            first = min(start, rows - step)
            block.read(first)
            products = self._multiply(block, *sums)
            own = tiles[first : first + step].transpose(1, 2)
            if self.relu:
                torch.clamp_min(products, 0, out=own)
            else:
                own.copy_(products)
        return output[:height, :width].contiguous().permute(2, 0, 1)[None]

    def _multiply(
        self, block: "_Block", input_sums: Tensor, output_sums: Tensor
    ) -> Float[Tensor, "rows columns 4 4 Co"]:
        torch.bmm(input_sums, block.patches, out=block.transformed)
        pixels = block.transformed.view(1, block.rows, block.columns, -1).permute(0, 3, 1, 2)
        products = torch.ops.mkldnn._convolution_pointwise(
            pixels, self.packed, None, [0, 0], [1, 1], [1, 1], SPAN**2, "none", [], ""
        )
        products = products.permute(0, 2, 3, 1).reshape(-1, SPAN**2, self.outputs)
        if self.bias is None:
            torch.bmm(output_sums, products, out=block.outputs)
        else:
            torch.baddbmm(self.bias, output_sums, products, out=block.outputs)
        return block.outputs.view(block.rows, block.columns, TILE, TILE, self.outputs)

    def _step(self, rows: int, columns: int) -> int:
        """Return the number of rows of tiles in a block: a quarter more than wanted, if fewer are then repeated."""
        wanted = min(rows, max(1, round(BLOCK_VALUES / (self.inputs * columns))))
        return min(range(wanted, wanted + wanted // 4 + 1), key=lambda step: -rows % step)


class _Block:
    """Memory for a block of tiles of an image, which is used for one block after the other."""

    def __init__(self, image: Float[Tensor, "H W Ci"], rows: int, outputs: int) -> None:
        self.image = image
        _, width, channels = image.shape
        self.rows, self.columns = rows, -(-width // TILE)
        # A pixel more at both ends: those of the patches beyond the first and the last column.
        self.padded = image.new_zeros(1 + (TILE * rows + SPAN - TILE) * width + SPAN, channels)
        self.patches = image.new_empty(rows * self.columns, SPAN**2, channels)
        self.transformed = torch.empty_like(self.patches)
        self.outputs = image.new_empty(rows * self.columns, TILE**2, outputs)

    def read(self, start: int) -> None:
        """Copy the inputs of rows of tiles, from row ``start``, to :attr:`patches`."""
        height, width, channels = self.image.shape
        first = TILE * start - 1
        last = first + TILE * self.rows + SPAN - TILE
        # The last tile may extend four pixels beyond the row: into the next one, or several in a narrow image.
        is_inside = first > 0 and last < height and width >= TILE
        source = self.image[first:last] if is_inside else self._pad(first, last)
        row, column = source.stride()[:2]
        # Column -1 is read as the last one of the row above, and the column after the last one as the first below.
        sizes, strides = (self.rows, self.columns, SPAN, SPAN, channels), (TILE * row, TILE * column, row, column, 1)
        patches = self.patches.view(sizes)
        patches.copy_(source.as_strided(sizes, strides, source.storage_offset() - column))
        patches[:, 0, :, 0] = 0
        patches[:, -1, :, width + 1 - TILE * (self.columns - 1) :] = 0

    def _pad(self, first: int, last: int) -> Float[Tensor, "rows W Ci"]:
        """Return rows of the image, those beyond it as zeros."""
        height, width, channels = self.image.shape
        rows = self.padded[1 : 1 + (last - first) * width].view(-1, width, channels)
        inside = self.image[max(first, 0) : min(last, height)]
        above = max(first, 0) - first
        rows[:above] = 0
        rows[above : above + len(inside)] = inside
        rows[above + len(inside) :] = 0
        return rows


def fits_tiled_winograd(weight: Tensor, height: int, width: int) -> bool:
    """Whether a convolution of stride 1 with this weight is faster by :class:`TiledWinograd` than directly."""
    outputs, inputs, *size = weight.shape
    if weight.dtype not in DTYPES or size != [3, 3] or min(outputs, inputs) < MIN_CHANNELS:
        return False
    # oneDNN's grouped convolutions need whole vectors.
    return inputs % 16 == outputs % 16 == 0 and -(-width // TILE) * -(-height // TILE) >= MIN_TILES
