"""Convolutions of pyramids and heads."""

from torch import nn

from libradet.errors import UserError
from libradet.models.config import Norm
from libradet.models.ops.fuse_conv_bn import ConvNorm

GROUPS = 32


def conv_norm(inputs: int, outputs: int, size: int, norm: Norm = "none", stride: int = 1) -> nn.Conv2d | ConvNorm:
    """Build a convolution with "same" padding, followed by its norm; it has a bias only without a norm.

    Raises:
        UserError: group norm with a number of channels that is not a multiple of 32.
    """
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=norm == "none")
    return layer if norm == "none" else ConvNorm(layer, build_norm(outputs, norm))


def build_norm(channels: int, norm: Norm) -> nn.Module:
    """Build the norm of a feature map; without one, the identity.

    Raises:
        UserError: group norm with a number of channels that is not a multiple of 32.
    """
    if norm == "none":
        return nn.Identity()
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "layer":
        from timm.layers import LayerNorm2d

        return LayerNorm2d(channels)
    if channels % GROUPS:
        raise UserError(
            f"group norm of {GROUPS} groups does not fit {channels} channels; set norm to batch or none, "
            f"or channels to a multiple of {GROUPS}"
        )
    return nn.GroupNorm(GROUPS, channels)
