"""Convolutions that pad as TensorFlow does, for images whose size is open."""

import torch.nn.functional as F
from torch import Tensor, nn

from libradet.models.depthwise import DepthwiseConv2d


class StaticSame(nn.Module):
    """A convolution that pads as TensorFlow does, for inputs whose sides are multiples of the stride.

    On a detector's canvas all are, and what is padded there does not depend on the input's size.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        rims = [
            max((k - 1) * d + 1 - s, 0) for k, s, d in zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
        ]
        (top, bottom), (left, right) = ((rim // 2, rim - rim // 2) for rim in rims)
        self.rim = (left, right, top, bottom)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of the padded input."""
        c = self.conv
        return F.conv2d(F.pad(x, self.rim), c.weight, c.bias, c.stride, 0, c.dilation, c.groups)


def pad_statically(module: nn.Module) -> None:
    """Replace, in place, every convolution that computes its padding from the input's size."""
    from timm.layers import Conv2dSame

    for name, child in module.named_children():
        if isinstance(child, Conv2dSame) or (isinstance(child, DepthwiseConv2d) and child.same):
            setattr(module, name, StaticSame(child))
        else:
            pad_statically(child)
