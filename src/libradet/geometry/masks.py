"""Masks cut out around boxes, and put back: both with the sub-pixel conventions of aligned RoIAlign."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Num
from numpy import ndarray
from torch import Tensor
from torchvision.ops import roi_align


@torch.library.custom_op("libradet::crop_masks", mutates_args=())
def _crop_masks(masks: Tensor, boxes: Tensor, gt: Tensor, valid: Tensor, size: int) -> Tensor:
    out = torch.zeros((*boxes.shape[:2], size, size), device=boxes.device)
    for b in range(len(boxes)):
        rows = valid[b].nonzero().squeeze(1)
        # Only the masks that are used become floats: they are by far the largest tensors of a batch.
        used, position = gt[b, rows].unique(return_inverse=True)
        rois = torch.cat([position[:, None].float(), boxes[b, rows].float()], dim=1)
        if len(rows):
            out[b, rows] = roi_align(masks[b, used, None].float(), rois, size, 1.0, 0, True)[:, 0]
    return out


@_crop_masks.register_fake
def _(masks, boxes, gt, valid, size):
    return boxes.new_empty((*boxes.shape[:2], size, size), dtype=torch.float32)


def crop_masks(
    masks: Num[Tensor, "B G H W"],
    boxes: Float[Tensor, "B S 4"],
    gt: Int[Tensor, "B S"],
    valid: Bool[Tensor, "B S"],
    size: int,
) -> Float[Tensor, "B S size size"]:
    """The part of mask ``gt`` that each box sees, 0..1, in ``size`` × ``size`` cells; zeros where not ``valid``."""
    return _crop_masks(masks, boxes.detach(), gt, valid, size)


def paste_mask(
    mask: Float[Tensor, "M M"], box: Float[Tensor, " 4"], height: int, width: int, threshold: float = 0.5
) -> Bool[ndarray, "{height} {width}"]:
    """Where in a picture of ``height`` × ``width`` pixels the mask of a box reaches ``threshold``.

    A pixel counts by its centre; between the mask's cells, and a cell around it, it is interpolated.
    """
    out = np.zeros((height, width), dtype=bool)
    x0, y0, x1, y1 = box.double().tolist()
    left, top = max(int(x0) - 1, 0), max(int(y0) - 1, 0)
    right, bottom = min(int(x1) + 2, width), min(int(y1) + 2, height)
    if x1 <= x0 or y1 <= y0 or right <= left or bottom <= top:
        return out
    x = (torch.arange(left, right, dtype=torch.float64) + 0.5 - x0) / (x1 - x0) * 2 - 1
    y = (torch.arange(top, bottom, dtype=torch.float64) + 0.5 - y0) / (y1 - y0) * 2 - 1
    y, x = torch.meshgrid(y, x, indexing="ij")
    grid = torch.stack([x, y], dim=-1)[None].float()
    seen = F.grid_sample(mask[None, None].float().cpu(), grid, align_corners=False)[0, 0]
    out[top:bottom, left:right] = (seen >= threshold).numpy()
    return out
