"""The anchors of a pyramid, and which ground truths they and other candidates stand for."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from libradet.data.batch import Batch
from libradet.geometry.anchors import base_anchors, grid_anchors, inside_image, within_border
from libradet.geometry.matching import IGNORED, Matches, ignore_in_crowd, match
from libradet.models.config import AnchorConfig, MatchConfig


class AnchorGrid(nn.Module):
    """Anchors at every cell of every level; has no parameters.

    Attributes:
        strides: of the levels.
        per_cell: how many anchors a cell has.
    """

    def __init__(self, strides: Sequence[int], config: AnchorConfig) -> None:
        super().__init__()
        self.strides, self.fitted = list(strides), config.fitted
        self.per_cell = len(config.scales) * len(config.ratios)
        for i, stride in enumerate(self.strides):
            anchors = base_anchors(
                stride, config.scales, config.ratios, config.offset, config.rounded, config.truncated
            )
            self.register_buffer(f"base_{i}", anchors, persistent=False)

    def forward(
        self, pyramid: Sequence[Float[Tensor, "B C _ _"]]
    ) -> tuple[Float[Tensor, "A 4"], list[tuple[int, int]]]:
        """Anchors of all levels, concatenated, and height and width of each level."""
        shapes = [(x.shape[2], x.shape[3]) for x in pyramid]
        canvas = (shapes[0][0] * self.strides[0], shapes[0][1] * self.strides[0]) if self.fitted else None
        anchors = [
            grid_anchors(self.get_buffer(f"base_{i}"), *shape, stride, canvas)
            for i, (shape, stride) in enumerate(zip(shapes, self.strides, strict=True))
        ]
        return torch.cat(anchors), shapes


@torch.no_grad()
def match_anchors(
    anchors: Float[Tensor, "A 4"],
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    per_cell: int,
    batch: Batch,
    config: MatchConfig,
    allowed_border: float | None = None,
) -> tuple[Float[Tensor, "B A 4"], Matches]:
    """Each image's anchors and what they stand for; those in the padding are empty and ignored.

    Args:
        allowed_border: so are those that cross the image's border by more pixels than this.
    """
    inside = inside_image(shapes, strides, per_cell, batch.sizes)
    if allowed_border is not None:
        inside = inside & within_border(anchors, batch.sizes, allowed_border)
    # Emptied before they are matched: an anchor in the padding must not be the best of any ground truth.
    own = anchors * inside[..., None]
    matches = match_objects(own, batch, config)
    return own, matches._replace(gt=torch.where(inside, matches.gt, IGNORED))


@torch.no_grad()
def match_objects(candidates: Float[Tensor, "B N 4"], batch: Batch, config: MatchConfig) -> Matches:
    """Which of the batch's objects each candidate stands for; those in a crowd are ignored."""
    matches = match(
        candidates,
        batch.boxes,
        (batch.labels >= 0) & ~batch.crowd,
        positive=config.positive,
        negative=config.negative,
        low_quality=config.low_quality,
        min_positive=config.min_positive,
    )
    return ignore_in_crowd(matches, candidates, batch.boxes, batch.crowd, config.crowd)
