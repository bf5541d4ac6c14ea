"""Convolutions of pyramids and heads in checkpoints, and the norms behind them."""

from libradet.interop.family import Tensors
from libradet.interop.resnet import Pairs
from libradet.models.config import Norm


def which_norm(tensors: Tensors, name: str) -> Norm:
    """What stands under ``name``: a batch norm has statistics, a group norm has not. Groups leave no trace: 32."""
    if f"{name}.running_mean" in tensors:
        return "batch"
    return "group" if f"{name}.weight" in tensors else "none"


def conv_pairs(there: str, there_norm: str, here: str, norm: Norm) -> Pairs:
    """Names of a convolution (with the norm behind it) that :func:`libradet.models.layers.conv` makes."""
    if norm == "none":
        return [(there, here)]
    return [(there, f"{here}.conv"), (there_norm, f"{here}.norm")]
