"""3 x 3 convolutions and their gradients by Winograd's minimal filtering, for training steps in float32 on a CPU.

Tiles of 4 x 4 outputs and their transforms are those of :mod:`libradet.models.ops.winograd_transforms`. A convolution
multiplies 36 values of a transformed tile by transformed kernels. The gradient of its input is the convolution with
mirrored kernels. The gradient of its weight is, for each of the 36 values, the product of transformed inputs and
transformed gradients, summed over tiles, and transformed back once.

Kernels change at every step: the layers of :mod:`libradet.models.ops.tiled_winograd` would reorder them at every call.
Here products are MKL's, which needs no order. Inputs are transformed along one axis after the other, by products with
overlapping windows of the map that are read where they are.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from libradet.models.ops.fast_depthwise import Arguments
from libradet.models.ops.winograd_transforms import SPAN, TILE, Transforms, axis_transforms, make_transforms
from libradet.utils.devices import CPU_CAPABILITY, has_bf16_instructions

BLOCK_VALUES = 240 * 256
"""Tiles of a block times input channels: with fewer, products over channels are slower; with more, memory is."""

MIN_CHANNELS = 128
"""With fewer channels, the transforms of tiles cost what is saved."""

MIN_TILES = 80
"""With fewer tiles in a batch, the transforms of kernels cost what is saved."""

IS_FASTER = torch.backends.mkl.is_available() and (
    CPU_CAPABILITY == "AVX2" or (CPU_CAPABILITY == "AVX512" and not has_bf16_instructions())
)
"""Where this was measured to be faster than oneDNN's direct convolutions."""

NEEDS_CHANNELS_LAST = CPU_CAPABILITY == "AVX512"
"""With channels first in memory, direct convolutions are as fast there."""

IDENTITY: Arguments = ((1, 1), (1, 1), (1, 1), 1)
"""Stride, padding, dilation and groups of the convolutions that keep height and width."""


class TrainedWinogradConv2d(nn.Conv2d):
    """A 3 x 3 convolution with the parameters of ``conv``; in training mode by Winograd's filtering where that pays."""

    def __init__(self, conv: nn.Conv2d) -> None:
        options: Any = {"bias": conv.bias is not None, "device": "meta"}
        super().__init__(conv.in_channels, conv.out_channels, 3, padding=1, **options)
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Float[Tensor, "B Ci H W"]) -> Float[Tensor, "B Co H W"]:
        """Return the convolution of ``x``, in its memory format."""
        if uses_winograd(self, x):
            return _TrainedWinograd.apply(x, self.weight, self.bias)
        return super().forward(x)


def replace_3x3_convs(module: nn.Module) -> None:
    """Replace, in place, every convolution that may be faster in training as :class:`TrainedWinogradConv2d`."""
    for name, child in module.named_children():
        if type(child) is nn.Conv2d and _is_eligible(child):
            setattr(module, name, TrainedWinogradConv2d(child).train(child.training))
        else:
            replace_3x3_convs(child)


def uses_winograd(conv: nn.Module, x: Float[Tensor, "B Ci H W"]) -> bool:
    """Whether a convolution of ``x`` is computed by Winograd's filtering: in eager training of large enough maps."""
    if not (IS_FASTER and isinstance(conv, TrainedWinogradConv2d) and conv.training):
        return False
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or x.device.type != "cpu":
        return False
    if type(x) is not Tensor:  # such as one without numbers
        return False
    if not x.dtype == conv.weight.dtype == torch.float32:
        return False
    if NEEDS_CHANNELS_LAST and not _is_channels_last(x):
        return False
    return len(x) * _count(x.shape[2]) * _count(x.shape[3]) >= MIN_TILES


def convolve(
    x: Float[Tensor, "B Ci H W"], weight: Float[Tensor, "Co Ci 3 3"], bias: Float[Tensor, " Co"] | None
) -> Float[Tensor, "B Co H W"]:
    """Return the convolution of stride 1 that pads by one pixel, in the memory format of ``x``."""
    return _convolve(x, weight, bias, _transforms(x.dtype).kernels, _is_channels_last(x))


def gradients(
    grad: Float[Tensor, "B Co H W"],
    x: Float[Tensor, "B Ci H W"],
    weight: Float[Tensor, "Co Ci 3 3"],
    needs: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of input, weight and bias of :func:`convolve`; None where not needed."""
    if torch.is_grad_enabled():  # gradients of gradients: those below write into buffers
        stride, padding, dilation, groups = IDENTITY
        options = ([len(weight)], stride, padding, dilation, False, [0, 0], groups, list(needs))
        return torch.ops.aten.convolution_backward(grad, x, weight, *options)
    mirrored = _transforms(x.dtype).kernels.flip(1)
    return (
        _convolve(grad, weight.transpose(0, 1), None, mirrored, _is_channels_last(x)) if needs[0] else None,
        _weight_gradient(grad, x) if needs[1] else None,
        grad.sum((0, 2, 3)) if needs[2] else None,
    )


class _TrainedWinograd(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return convolve(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight = ctx.saved_tensors
        return gradients(grads[0], x, weight, ctx.needs_input_grad)


def _convolve(
    x: Float[Tensor, "B Ci H W"],
    weight: Float[Tensor, "Co Ci 3 3"],
    bias: Tensor | None,
    transform: Float[Tensor, "36 9"],
    channels_last: bool,
) -> Float[Tensor, "B Co H W"]:
    """Return the convolution, with channels last in memory or first."""
    outputs = len(weight)
    (batch, _, height, width), columns = x.shape, _count(x.shape[3])
    layout = torch.channels_last if channels_last else torch.contiguous_format
    output = torch.empty((batch, outputs, height, width), dtype=x.dtype, memory_format=layout)
    # MKL's products are a tenth faster if kernels are in this order.
    kernels = weight.transpose(0, 1) if channels_last else weight
    kernels = (transform @ kernels.reshape(-1, 9).T).view(SPAN, SPAN, *kernels.shape[:2])
    buffers = _Buffers(x, outputs)
    for block in buffers.blocks:
        transformed, count = buffers.transform(block), block.rows * columns * block.images
        size = (count, outputs) if channels_last else (outputs, count)
        products = buffers.products[: SPAN**2 * outputs * count].view(SPAN, SPAN, *size)
        # Of one row of the transform, whose six columns are beside each other in memory.
        for tiles, own_kernels, own_products in zip(transformed, kernels, products, strict=True):
            if channels_last:
                torch.bmm(tiles.transpose(0, 1), own_kernels, out=own_products)
            else:
                torch.bmm(own_kernels, tiles.permute(1, 2, 0), out=own_products)
        pixels = buffers.transformed[: TILE**2 * outputs * count].view(TILE**2, -1)
        torch.mm(_transforms(x.dtype).outputs, products.view(SPAN**2, -1), out=pixels)
        if channels_last:
            tiles = pixels.view(TILE, TILE, block.images, block.rows, columns, outputs).permute(2, 5, 3, 0, 4, 1)
        else:
            tiles = pixels.view(TILE, TILE, outputs, block.images, block.rows, columns).permute(3, 2, 4, 0, 5, 1)
        _write(output[block.image : block.image + block.images, :, TILE * block.row :], tiles, bias)
    return output


def _write(
    output: Float[Tensor, "B Co H W"], tiles: Float[Tensor, "B Co rows 4 columns 4"], bias: Tensor | None
) -> None:
    """Copy tiles, plus the bias, to the first rows of ``output``, except what lies beyond it."""
    rows, columns = TILE * tiles.shape[2], TILE * tiles.shape[4]
    output = output[:, :, :rows]
    if output.shape[2:] == (rows, columns):
        output = output.unflatten(3, (-1, TILE)).unflatten(2, (-1, TILE))
    else:
        tiles = tiles.reshape(*tiles.shape[:2], rows, columns)[:, :, : output.shape[2], : output.shape[3]]
    if bias is None:
        output.copy_(tiles)
    else:
        torch.add(tiles, bias.view(-1, *[1] * (tiles.dim() - 2)), out=output)


def _weight_gradient(grad: Float[Tensor, "B Co H W"], x: Float[Tensor, "B Ci H W"]) -> Float[Tensor, "Co Ci 3 3"]:
    outputs, inputs = grad.shape[1], x.shape[1]
    matrices = _transforms(x.dtype)
    to_products = matrices.outputs.T.contiguous()
    buffers = _Buffers(x, outputs)
    # Products over all tiles are sums, to which each block adds its own.
    sums = x.new_zeros(SPAN, SPAN, inputs, outputs)
    for block in buffers.blocks:
        transformed = buffers.transform(block)
        tiles = _read_tiles(grad, block)
        memory = buffers.products[: SPAN**2 * tiles.shape[1]].view(SPAN**2, -1)
        torch.mm(to_products, tiles, out=memory)
        own_products = memory.view(SPAN, SPAN, -1, outputs)
        for own_sums, own_tiles, own in zip(sums, transformed, own_products, strict=True):
            torch.baddbmm(own_sums, own_tiles.permute(1, 2, 0), own, out=own_sums)
    weight = (matrices.kernels.T @ sums.view(SPAN**2, -1)).view(3, 3, inputs, outputs)
    return weight.permute(3, 2, 0, 1).contiguous()


def _read_tiles(grad: Float[Tensor, "B Co H W"], block: "_Block") -> Float[Tensor, "16 tiles_Co"]:
    """Return the tiles of a block, zero beyond the map, each of the 16 pixels with its channels last."""
    columns, first = _count(grad.shape[3]), TILE * block.row
    part = grad[block.image : block.image + block.images, :, first : first + TILE * block.rows]
    padding = (0, TILE * columns - part.shape[3], 0, TILE * block.rows - part.shape[2])
    part = F.pad(part, padding) if any(padding) else part
    tiles = part.unflatten(3, (-1, TILE)).unflatten(2, (-1, TILE))
    return tiles.permute(3, 5, 0, 2, 4, 1).reshape(TILE**2, -1)


class _Block(NamedTuple):
    """Tiles that are computed at once: the first image and row of tiles, and the numbers of both."""

    image: int
    images: int
    row: int
    rows: int


class _Buffers:
    """Memory for the tiles of a map, used for one block after the other.

    Attributes:
        blocks: of the map.
        transformed: inputs of 36 products of a block, also its outputs.
        products: of a block.
    """

    def __init__(self, x: Float[Tensor, "B Ci H W"], outputs: int) -> None:
        self.x, self.blocks = x, _blocks(x.shape)
        inputs, self.columns = x.shape[1], _count(x.shape[3])
        tiles = max(block.images * block.rows for block in self.blocks) * self.columns
        # A tile more in each row, so that the tiles of all rows have one distance; the last one reads beyond its row.
        cells = max(block.images * _rows_of_pixels(block) for block in self.blocks) * (self.columns + 1)
        self.padded = x.new_empty((TILE * cells + SPAN - TILE) * inputs)
        self.padded[TILE * cells * inputs :] = 0
        self.transformed = x.new_empty(SPAN**2 * tiles * max(inputs, outputs))
        self.products = x.new_empty(max(SPAN**2 * tiles * outputs, SPAN * cells * inputs))

    def transform(self, block: _Block) -> Float[Tensor, "6 tiles 6 Ci"]:
        """Return the transformed inputs of the tiles of a block: rows first, the columns of a tile side by side."""
        channels, height, step = self.x.shape[1], _rows_of_pixels(block), self.columns + 1
        cells = block.images * height * step
        self._pad(block, self.padded[: TILE * cells * channels].view(block.images, height, TILE * step, channels))
        sums = _axis_sums(self.x.dtype)
        windows = self.padded.as_strided((cells, SPAN, channels), (TILE * channels, channels, 1))
        # Contiguous: into other memory, torch computes one product after the other, without threads.
        along_rows = self.products[: SPAN * cells * channels].view(cells, SPAN, channels)
        torch.bmm(sums.expand(cells, -1, -1), windows, out=along_rows)
        row, count = step * SPAN * channels, self.columns * SPAN * channels
        sizes, strides = (block.images, block.rows, SPAN, count), (height * row, TILE * row, row, 1)
        of_tiles = along_rows.as_strided(sizes, strides, along_rows.storage_offset())
        result = self.transformed[: SPAN**2 * block.images * block.rows * self.columns * channels]
        target = result.view(SPAN, block.images, block.rows, count).permute(1, 2, 0, 3)
        axis = int(block.images > block.rows)  # a call for each image, or for each row
        for window, sum_of_window in zip(of_tiles.unbind(axis), target.unbind(axis), strict=True):
            torch.bmm(sums.expand(len(window), -1, -1), window, out=sum_of_window)
        return result.view(SPAN, -1, SPAN, channels)

    def _pad(self, block: _Block, padded: Float[Tensor, "images rows columns Ci"]) -> None:
        """Copy the pixels of the tiles of a block, zeros beyond the map."""
        height, width = self.x.shape[2:]
        first = TILE * block.row - 1
        last = first + padded.shape[1]
        above, below = max(0, -first), max(0, last - height)
        padded[:, :above] = 0
        padded[:, padded.shape[1] - below :] = 0
        padded[:, :, 0] = 0
        padded[:, :, width + 1 :] = 0
        part = self.x[block.image : block.image + block.images, :, first + above : last - below]
        padded[:, above : padded.shape[1] - below, 1 : width + 1] = part.permute(0, 2, 3, 1)


def _blocks(shape: Sequence[int]) -> list[_Block]:
    """Return blocks of about equal size: some rows of tiles of an image, or several whole images."""
    batch, channels, height, width = shape
    rows, columns = _count(height), _count(width)
    wanted = max(1, BLOCK_VALUES // channels)
    images = -(-batch // -(-batch // max(1, wanted // (rows * columns))))
    step = -(-rows // max(1, round(rows * columns / wanted)))
    return [
        _Block(image, min(images, batch - image), row, min(step, rows - row))
        for image in range(0, batch, images)
        for row in range(0, rows, step)
    ]


def _rows_of_pixels(block: _Block) -> int:
    return TILE * block.rows + SPAN - TILE


def _count(side: int) -> int:
    """Return the number of tiles along a side."""
    return -(-side // TILE)


def _is_channels_last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _is_eligible(conv: nn.Conv2d) -> bool:
    sizes = conv.stride, conv.padding, conv.dilation, conv.groups
    is_plain = sizes == IDENTITY and conv.kernel_size == (3, 3) and conv.padding_mode == "zeros"
    return is_plain and min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS


@cache
def _transforms(dtype: torch.dtype) -> Transforms:
    return Transforms(*(matrix.to(dtype) for matrix in make_transforms()))


@cache
def _axis_sums(dtype: torch.dtype) -> Float[Tensor, "6 6"]:
    """Return the transform of inputs along one axis."""
    return axis_transforms().inputs.to(dtype)
