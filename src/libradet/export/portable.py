"""A detector as one function of tensors, from images as decoders give them to detections in their pixels."""

from typing import cast

import torch
from jaxtyping import Bool, Float, Int, Num, UInt8
from torch import Tensor, nn

from libradet.data.batch import Batch
from libradet.data.loading.transforms import Size
from libradet.export.padding import pad_statically
from libradet.export.resizing import resize_onto_canvas, target_sides
from libradet.models.detector import Detector
from libradet.models.inference_form import optimize

Outputs = (
    tuple[Float[Tensor, "B D 4"], Float[Tensor, "B D"], Int[Tensor, "B D"], Bool[Tensor, "B D"]]
    | tuple[
        Float[Tensor, "B D 4"], Float[Tensor, "B D"], Int[Tensor, "B D"], Bool[Tensor, "B D"], Float[Tensor, "B D M M"]
    ]
)


class Portable(nn.Module):
    """What is exported: any number of images of any one size in, detections out.

    Args:
        model: left as it is.
        size: (short, long) side to resize to; "original" for images that come in that size.
    """

    def __init__(self, model: Detector, size: Size) -> None:
        super().__init__()
        self.detector = optimize(model)
        pad_statically(self.detector)
        self.size = size

    def forward(self, images: UInt8[Tensor, "B H W 3"], proposals: Float[Tensor, "B P 4"] | None = None) -> Outputs:
        """Boxes (xyxy in pixels of ``images``), scores, labels, which of them are real, and masks if there are any.

        Args:
            images: RGB.
            proposals: xyxy in pixels of ``images``; what has no area is padding.
        """
        count, height, width = images.shape[:3]
        sides = target_sides(height, width, self.size, images)
        padded = self._on_canvas(images.permute(0, 3, 1, 2), sides)
        ends = torch.stack([torch.full_like(sides[0], side) for side in (width, height)]).repeat(2)
        scale = (sides.flip(0).repeat(2).double() / ends).float()
        empty = torch.zeros(count, 1, device=images.device)
        found = self.detector(
            Batch(
                images=padded,
                sizes=sides.expand(count, 2),
                boxes=empty[..., None].expand(-1, -1, 4),
                labels=empty.long() - 1,
                crowd=empty.bool(),
                proposals=None if proposals is None else proposals * scale,
            )
        )
        boxes = torch.minimum(found.boxes / scale, ends.float())
        outputs = boxes, found.scores, found.labels, found.valid
        return outputs if found.masks is None else (*outputs, found.masks)

    def _on_canvas(self, images: Num[Tensor, "B 3 H W"], sides: Int[Tensor, "2"]) -> Num[Tensor, "B 3 _ _"]:
        divisor = self.detector.divisor
        # Read from a tensor, so that for a tracer they are two whole numbers and no formulas with roundings in them.
        cells = (sides + divisor - 1).div(divisor, rounding_mode="floor")
        down, across = (cast(int, side.item()) for side in cells.unbind())
        for count in (down, across):
            torch._check(count >= 1)
        height, width = down * divisor, across * divisor
        if self.size != "original":
            return resize_onto_canvas(images, sides, height, width)
        below, beside = height - images.shape[2], width - images.shape[3]
        for free in (below, beside):
            torch._check(free >= 0)
        return nn.functional.pad(images, (0, beside, 0, below))
