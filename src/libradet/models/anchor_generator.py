"""Anchors of a feature pyramid, and their assignment to ground truths."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from libradet.data.batch import Batch
from libradet.geometry.anchors import base_anchors, grid_anchors, inside_image, within_border
from libradet.geometry.matching import IGNORED, Matches
from libradet.models.config import AnchorConfig, MatchConfig
from libradet.models.sampling import match_to_gt


class AnchorGenerator(nn.Module):
    """Anchors at every cell of every pyramid level; has no parameters.

    Attributes:
        strides: of the levels.
        num_anchors_per_location: number of anchors of a cell.
    """

    def __init__(self, strides: Sequence[int], config: AnchorConfig) -> None:
        super().__init__()
        self.strides, self.fitted = list(strides), config.fitted
        self.num_anchors_per_location = len(config.sizes or config.scales) * len(config.ratios)
        for i, stride in enumerate(self.strides):
            scales = [size / stride for size in config.sizes] or config.scales
            anchors = base_anchors(stride, scales, config.ratios, config.offset, config.rounded, config.truncated)
            self.register_buffer(f"base_{i}", anchors, persistent=False)

    def forward(
        self, features: Sequence[Float[Tensor, "B C _ _"]]
    ) -> tuple[Float[Tensor, "A 4"], list[tuple[int, int]]]:
        """Return the anchors of all levels, concatenated, and height and width of each level."""
        shapes = [(x.shape[2], x.shape[3]) for x in features]
        padded_size = (shapes[0][0] * self.strides[0], shapes[0][1] * self.strides[0]) if self.fitted else None
        anchors = [
            grid_anchors(self.get_buffer(f"base_{i}"), *shape, stride, padded_size)
            for i, (shape, stride) in enumerate(zip(shapes, self.strides, strict=True))
        ]
        return torch.cat(anchors), shapes

    def level_sizes(self, shapes: Sequence[tuple[int, int]]) -> list[int]:
        """Return the number of anchors of each level, from the levels' heights and widths."""
        return [height * width * self.num_anchors_per_location for height, width in shapes]

    @torch.no_grad()
    def match(
        self,
        anchors: Float[Tensor, "A 4"],
        shapes: Sequence[tuple[int, int]],
        batch: Batch,
        config: MatchConfig,
        allowed_border: float | None = None,
    ) -> tuple[Float[Tensor, "B A 4"], Matches]:
        """Match the anchors of each image to its ground truths; anchors in the padding are empty and ignored.

        Args:
            anchors, shapes: as returned by :meth:`forward`.
            allowed_border: anchors that cross the image border by more pixels than this are ignored, too.
        """
        inside = inside_image(shapes, self.strides, self.num_anchors_per_location, batch.sizes)
        if allowed_border is not None:
            inside = inside & within_border(anchors, batch.sizes, allowed_border)
        # Emptied before matching: an anchor in the padding must not be the best of any ground truth.
        anchors_per_image = anchors * inside[..., None]
        matches = match_to_gt(anchors_per_image, batch, config)
        return anchors_per_image, matches._replace(gt=torch.where(inside, matches.gt, IGNORED))
