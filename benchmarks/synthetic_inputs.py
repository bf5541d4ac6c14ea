"""Synthetic images with objects, in the input formats of libradet and torchvision."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases import Case

CLASSES = 80


class SyntheticInputs(NamedTuple):
    """Images of one size without padding, and their objects.

    Attributes:
        images: uint8 [B, 3, H, W], RGB.
        boxes: xyxy [B, G, 4] in pixels.
        labels: [B, G], 0..C-1.
        masks: uint8 [B, G, H, W], or None without a mask head or in inference.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor | None


def make_inputs(case: Case, seed: int = 0) -> SyntheticInputs:
    """Return smooth colored noise of several scales with random boxes, and ellipses as masks."""
    g = torch.Generator().manual_seed(seed)
    batch, objects, (height, width) = case.batch, case.objects, case.size
    images = torch.zeros(batch, 3, height, width)
    for cells in (64, 16, 4, 1):
        noise = torch.rand(batch, 3, -(-height // cells) + 1, -(-width // cells) + 1, generator=g)
        images += F.interpolate(noise, size=(height, width), mode="bilinear") / 4
    images = (images - 0.5) * 2 + 0.5
    sides = torch.tensor([width, height])
    extent = sides * (0.05 + 0.45 * torch.rand(batch, objects, 2, generator=g))
    corner = (sides - extent) * torch.rand(batch, objects, 2, generator=g)
    boxes = torch.cat([corner, corner + extent], -1)
    labels = torch.randint(0, CLASSES, (batch, objects), generator=g)
    masks = _ellipses(boxes, height, width) if case.shared_model == "mask_rcnn" and case.task == "train" else None
    return SyntheticInputs((images.clamp(0, 1) * 255).byte(), boxes, labels, masks)


def _ellipses(boxes: Tensor, height: int, width: int) -> Tensor:
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    center, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    dx = (x - center[..., :1]) / half[..., :1]
    dy = (y - center[..., 1:]) / half[..., 1:]
    return (dx[..., None, :] ** 2 + dy[..., :, None] ** 2 < 1).byte()


def to_batch(inputs: SyntheticInputs, size_divisible: int):
    """Return a libradet batch, padded to a height and width that are multiples of ``size_divisible``."""
    from libradet.data.batch import Batch
    from libradet.geometry.masks import pack_masks

    height, width = inputs.images.shape[2:]
    pad = (0, -width % size_divisible, 0, -height % size_divisible)
    sizes = torch.tensor([[height, width]]).expand(len(inputs.images), -1).contiguous()
    masks = None if inputs.masks is None else pack_masks(F.pad(inputs.masks, pad))
    images = F.pad(inputs.images, pad).contiguous(memory_format=torch.channels_last)
    return Batch(images, sizes, inputs.boxes, inputs.labels, torch.zeros_like(inputs.labels, dtype=torch.bool), masks)


def to_torchvision(inputs: SyntheticInputs, first_label: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Return torchvision's input: images in 0..1, and targets whose labels start at ``first_label``."""
    targets = [{"boxes": b, "labels": n + first_label} for b, n in zip(inputs.boxes, inputs.labels, strict=True)]
    for target, masks in zip(targets, inputs.masks if inputs.masks is not None else (), strict=False):
        target["masks"] = masks
    return list(inputs.images.float() / 255), targets
