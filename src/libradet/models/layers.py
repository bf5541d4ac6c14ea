"""What pyramids and heads are built of."""

from torch import nn

from libradet.errors import UserError
from libradet.models.backbones import ConvNorm
from libradet.models.config import Norm

GROUPS = 32


def conv(inputs: int, outputs: int, size: int, norm: Norm = "none", stride: int = 1) -> nn.Conv2d | ConvNorm:
    """A convolution that keeps sides (but for ``stride``), with its norm behind it; a norm makes up for its bias.

    Raises:
        UserError: group norm of a number of channels that is no multiple of 32.
    """
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=norm == "none")
    if norm == "none":
        return layer
    if norm == "batch":
        return ConvNorm(layer, nn.BatchNorm2d(outputs))
    if outputs % GROUPS:
        raise UserError(f"group norm has {GROUPS} groups, which do not divide {outputs} channels; change either")
    return ConvNorm(layer, nn.GroupNorm(GROUPS, outputs))
