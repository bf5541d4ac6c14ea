"""RoIAlign and the linear layer after it in one step, for inference on a CPU."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from libradet.geometry.roi_align import assign_levels
from libradet.geometry.roi_align_cpu import gather_bin_rows, sampling_points
from libradet.models.config import RoIAlignConfig
from libradet.models.ops.packed_linear import PackedLinear
from libradet.models.ops.quantized_layers import ActivationRange, QuantizedLinear

BOXES = 256
"""Boxes whose features are in memory at once: 13 MB of 256 channels, which memory allocators keep between calls."""


class PooledLinear(nn.Module):
    """RoIAlign of boxes and the first linear layer of a box head.

    Bins are pooled with channels last, as the pyramid stores pixels, and the layer's weights are in that order. The
    features of all boxes, 50 MB of 1,000, are never in memory at once: new memory costs more time than RoIAlign.

    Args:
        linear: layer on the CPU whose input is [C, size, size] of each box.
        strides: of the pyramid levels.
        config: of RoIAlign.
        input_range: of the layer's input, for INT8; without it, the layer is computed in the precision of its weights.
    """

    def __init__(
        self,
        linear: nn.Linear,
        strides: Sequence[int],
        config: RoIAlignConfig,
        input_range: ActivationRange | None = None,
    ) -> None:
        super().__init__()
        size = config.output_size
        weight = linear.weight.detach().unflatten(1, (-1, size * size)).transpose(1, 2).flatten(1)
        self.linear = (
            PackedLinear(weight, linear.bias)
            if input_range is None
            else QuantizedLinear(weight, linear.bias, input_range.scale)
        )
        self.strides, self.config, self.outputs = list(strides)[: config.num_levels], config, len(weight)

    def forward(
        self, features: Sequence[Float[Tensor, "B C _ _"]], boxes: Float[Tensor, "B N 4"], valid: Bool[Tensor, "B N"]
    ) -> Float[Tensor, "BN outputs"]:
        """Return the layer's output for the boxes of all images; that of features of zero where not ``valid``."""
        config, features = self.config, features[: len(self.strides)]
        levels = assign_levels(boxes, self.strides, config.canonical_size, config.canonical_level)
        levels = levels.masked_fill(~valid, -1)
        shapes: Any = [tuple(x.shape[2:]) for x in features]
        how = shapes, self.strides, config.output_size, config.sampling_ratio, config.aligned
        hidden = features[0].new_empty(boxes.shape[0], boxes.shape[1], self.outputs)
        for b in range(len(boxes)):
            pixels = torch.cat([x[b].permute(1, 2, 0).flatten(0, 1) for x in features])
            for start in range(0, boxes.shape[1], BOXES):
                own = slice(start, start + BOXES)
                groups = sampling_points(boxes[b, own].float(), levels[b, own], *how)
                bins = gather_bin_rows(pixels, groups, len(levels[b, own]), config.output_size**2)
                hidden[b, own] = self.linear(bins.flatten(1))
        return hidden.flatten(0, 1)
