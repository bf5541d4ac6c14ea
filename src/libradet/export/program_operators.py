"""The package's own operators in terms of torch's and torchvision's, for programs that run without libradet."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from libradet.export.overlaps import double_threshold


def suppress(
    boxes: Float[Tensor, "B N 4"],
    scores: Float[Tensor, "B N"],
    groups: Int[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    threshold: float,
    size: int,
) -> tuple[Int[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """As :func:`libradet.geometry.suppression.suppress`: one run over all images, moved out of each other's way."""
    count, number = scores.shape
    rows = valid.flatten().nonzero().squeeze(1)
    image = rows // number
    # In 64 bits boxes lose nothing by being moved far away.
    own = boxes.flatten(0, 1)[rows].double()
    span = boxes.amax().double() - boxes.amin().double() + 1
    apart = (image * (groups.amax() + 1) + groups.flatten()[rows]) * span
    scores = scores.flatten()[rows].double()
    kept = torch.ops.torchvision.nms(own + apart[:, None], scores, double_threshold(threshold))
    image, row = image[kept], rows[kept] % number
    # They come by falling score; each is numbered among those of its image.
    mine = image[:, None] == torch.arange(count, device=boxes.device)
    slot = (mine.cumsum(0) - 1).gather(1, image[:, None]).squeeze(1).clamp(max=size)
    chosen = row.new_zeros(count, size + 1).index_put((image, slot), row)
    filled = valid.new_zeros(count, size + 1).index_put((image, slot), torch.ones_like(row, dtype=torch.bool))
    return chosen[:, :size].clone(), filled[:, :size].clone()


def pyramid_roi_align(
    pyramid: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "B S 4"],
    levels: Int[Tensor, "B S"],
    strides: Sequence[int],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Float[Tensor, "BS C size size"]:
    """As the operator in :mod:`libradet.geometry.roi_align`: level by level."""
    count, number = levels.shape
    out = boxes.new_zeros(count * number, pyramid[0].shape[1], size, size)
    for level, (features, stride) in enumerate(zip(pyramid, strides, strict=True)):
        rows = (levels.flatten() == level).nonzero().squeeze(1)
        rois = torch.cat([(rows // number)[:, None].to(boxes.dtype), boxes.flatten(0, 1)[rows]], 1)
        pooled = torch.ops.torchvision.roi_align(features, rois, 1 / stride, size, size, sampling_ratio, aligned)
        out = out.index_put((rows,), pooled)
    return out


PLAIN: dict[torch._ops.OperatorBase, Callable] = {
    torch.ops.libradet.suppress.default: suppress,
    torch.ops.libradet.pyramid_roi_align.default: pyramid_roi_align,
}
