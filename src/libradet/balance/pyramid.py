"""Feature level (paper 3.2): the balanced feature pyramid."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def rescale(x: Float[Tensor, "B C _ _"], height: int, width: int) -> Float[Tensor, "B C height width"]:
    """Upsample by nearest interpolation, or downsample by max pooling.

    Sizes that are integer multiples, as those of a padded batch are, use max pooling of a fixed kernel, which all
    exporters support.
    """
    h, w = x.shape[-2:]
    if (h, w) == (height, width):
        return x
    if h < height or w < width:
        return F.interpolate(x, size=(height, width), mode="nearest")
    if h % height == 0 and w % width == 0:
        return F.max_pool2d(x, (h // height, w // width))
    return F.adaptive_max_pool2d(x, (height, width))


class NonLocal2d(nn.Module):
    """Embedded-Gaussian non-local block (Wang et al., CVPR 2018, equation 6), with a residual.

    Every cell attends to all others: y = x + W * softmax(θ(x)ᵀ φ(x)) g(x), not divided by √d. W is
    initialized with zeros, so a new block is the identity. Computed by fused attention, without the matrix of all
    pairs of cells.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Conv2d(channels, channels, 1)
        self.theta = nn.Conv2d(channels, channels, 1)
        self.phi = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        for conv in (self.g, self.theta, self.phi, self.out):
            nn.init.normal_(conv.weight, std=0.0 if conv is self.out else 0.01)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        query, key, value = (conv(x).flatten(2).transpose(1, 2)[:, None] for conv in (self.theta, self.phi, self.g))
        y = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + self.out(y[:, 0].transpose(1, 2).reshape(x.shape))


class BalancedFeaturePyramid(nn.Module):
    """Rescale all levels to one size, average, refine, and add the result to each level (paper 3.2, equation 4).

    Args:
        channels: of every level.
        level: index of the level at whose size levels are averaged.
        refine: refinement of the average: none, one convolution, or a non-local block.
        num_gates: number of levels that learn how much of the average they add. A new gate is 0, so a new block is
            the identity, and a trained plain detector keeps its detections. 0 adds the average itself, as the paper.

    Attributes:
        gate: learned factor of the average for each level, finest first; None without gates.
    """

    def __init__(
        self,
        channels: int,
        level: int = 2,
        refine: Literal["none", "conv", "non_local"] = "non_local",
        num_gates: int = 0,
    ) -> None:
        super().__init__()
        self.level = level
        if refine == "conv":
            self.refine = nn.Conv2d(channels, channels, 3, padding=1)
        elif refine == "non_local":
            self.refine = NonLocal2d(channels)
        else:
            self.refine = nn.Identity()
        self.gate = nn.Parameter(torch.zeros(num_gates)) if num_gates else None

    def forward(self, pyramid: Sequence[Float[Tensor, "B C _ _"]]) -> list[Float[Tensor, "B C _ _"]]:
        """Return the balanced levels, finest first, in their shapes. Raises IndexError if ``level`` does not exist."""
        height, width = pyramid[self.level].shape[-2:]
        balanced = self.refine(_average([rescale(x, height, width) for x in pyramid]))
        if self.gate is None:
            return [x + rescale(balanced, *x.shape[-2:]) for x in pyramid]
        gates = self.gate.to(balanced.dtype).unbind()
        return [x + gate * rescale(balanced, *x.shape[-2:]) for gate, x in zip(gates, pyramid, strict=True)]


def _average(levels: Sequence[Float[Tensor, "B C H W"]]) -> Float[Tensor, "B C H W"]:
    """Return the mean, in the memory format of the levels.

    ``stack`` would lose it: sums of two formats are several times slower, and attention needs channels last to be
    computed without the matrix of all pairs of cells. A compiler chooses formats itself.
    """
    if torch.compiler.is_compiling() or not levels[0].is_contiguous(memory_format=torch.channels_last):
        return torch.stack(list(levels)).mean(0)
    return torch.stack([x.permute(0, 2, 3, 1) for x in levels]).mean(0).permute(0, 3, 1, 2)
