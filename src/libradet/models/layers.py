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
    if norm == "none":
        return layer
    if norm == "batch":
        return ConvNorm(layer, nn.BatchNorm2d(outputs))
    if outputs % GROUPS:
        raise UserError(
            f"group norm of {GROUPS} groups does not fit {outputs} channels; set norm to batch or none, "
            f"or channels to a multiple of {GROUPS}"
        )
    return ConvNorm(layer, nn.GroupNorm(GROUPS, outputs))
