"""Feature pyramids: FPN (Lin et al., CVPR 2017) and PAFPN (Liu et al., CVPR 2018)."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from libradet.errors import UserError
from libradet.models.config import BACKBONE_STRIDES, PyramidConfig
from libradet.models.layers import conv_norm


class ExtraLevels(nn.Module):
    """Base of pyramids: levels of stride ``config.start_stride`` to 32, and extra coarse ones.

    Args:
        strides: of the features that the levels are computed from.

    Attributes:
        start: index into these strides of the finest level.
        num_extra: number of levels above stride 32.

    Raises:
        UserError: a stride or number of levels that the backbone does not have.
    """

    extra_convs: nn.ModuleList

    def __init__(self, config: PyramidConfig, strides: Sequence[int] = BACKBONE_STRIDES) -> None:
        super().__init__()
        if config.start_stride not in strides:
            choices = tuple(dict.fromkeys(strides))
            choice = f"one of {choices}" if len(choices) > 1 else choices[0]
            raise UserError(f"pyramid.start_stride is {config.start_stride}; set it to {choice}")
        self.start = strides.index(config.start_stride)
        self.extra, self.extra_relu = config.extra_levels, config.extra_relu
        self.feature_strides = list(strides[self.start :])
        num_levels = len(self.feature_strides)
        self.num_extra = config.num_levels - num_levels
        if self.num_extra < 0:
            raise UserError(
                f"pyramid.num_levels is {config.num_levels}; "
                f"set it to at least {num_levels}, as pyramid.start_stride is {config.start_stride}"
            )

    def add_extra_convs(self, c5_channels: int, channels: int) -> None:
        """Add the convolutions of the extra levels, the last layers in the order of parameters."""
        self.extra_convs = nn.ModuleList()
        if self.extra != "max_pool":
            first = c5_channels if self.extra == "conv_on_c5" else channels
            widths = ([first] + [channels] * self.num_extra)[: self.num_extra]
            self.extra_convs.extend(nn.Conv2d(c, channels, 3, stride=2, padding=1) for c in widths)

    @property
    def strides(self) -> list[int]:
        """Strides of the output levels."""
        coarsest = self.feature_strides[-1]
        return [*self.feature_strides, *(coarsest * 2 ** (i + 1) for i in range(self.num_extra))]

    def extra_levels(self, x: Float[Tensor, "B _ _ _"]) -> list[Float[Tensor, "B C _ _"]]:
        """Return the extra levels, from C5 or the coarsest other level."""
        extra = []
        for i in range(self.num_extra):
            if self.extra == "max_pool":
                x = F.max_pool2d(x, 1, stride=2)
            else:
                x = self._strided(i, F.relu(x) if i and self.extra_relu else x)
            extra.append(x)
        return extra

    def _strided(self, i: int, x: Tensor) -> Tensor:
        layer = self.extra_convs[i]
        assert isinstance(layer, nn.Conv2d)
        if self.training and x.shape[-2:] == (1, 1):
            # On one cell, only the center of the kernel has an effect. oneDNN leaves parts of the bf16 gradient of such
            # a kernel uninitialized.
            return F.conv2d(x, layer.weight[:, :, 1:2, 1:2], layer.bias)
        return layer(x)


class FeaturePyramid(ExtraLevels):
    """FPN on C2..C5 (or fewer of them): lateral 1x1 convolutions, top-down sums, 3x3 outputs, extra coarse levels.

    With ``type="pafpn"``, a bottom-up path follows the top-down one. The extra levels are P5 subsampled
    (``max_pool``), or strided convolutions on C5 or P5.

    Raises:
        UserError: a stride or number of levels that the backbone does not have.
    """

    def __init__(
        self, in_channels: Sequence[int], config: PyramidConfig, strides: Sequence[int] = BACKBONE_STRIDES
    ) -> None:
        super().__init__(config, strides)
        used, width = list(in_channels)[self.start :], config.channels
        norm = config.norm
        self.lateral = nn.ModuleList(conv_norm(c, width, 1, norm) for c in used)
        self.output = nn.ModuleList(conv_norm(width, width, 3, norm) for _ in used)
        self.bottom_up = nn.ModuleList()
        self.bottom_up_output = nn.ModuleList()
        if config.type == "pafpn":
            self.bottom_up.extend(conv_norm(width, width, 3, norm, stride=2) for _ in used[1:])
            self.bottom_up_output.extend(conv_norm(width, width, 3, norm) for _ in used[1:])
        self.add_extra_convs(used[-1], width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Float[Tensor, "B C _ _"]]:
        """Return the levels, finest first."""
        used = list(features)[self.start :]
        merged = [lateral(x) for lateral, x in zip(self.lateral, used, strict=True)]
        for i in range(len(merged) - 1, 0, -1):
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=merged[i - 1].shape[-2:], mode="nearest")
        levels = [output(x) for output, x in zip(self.output, merged, strict=True)]
        for i, down in enumerate(self.bottom_up):
            levels[i + 1] = levels[i + 1] + down(levels[i])
        if self.bottom_up_output:
            levels[1:] = [output(x) for output, x in zip(self.bottom_up_output, levels[1:], strict=True)]
        return levels + self.extra_levels(used[-1] if self.extra == "conv_on_c5" else levels[-1])
