"""The images that everybody looks at, in the forms that they want them in."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases import Case

CLASSES = 80


class Scene(NamedTuple):
    """Images and what is on them, of one size, without padding.

    Attributes:
        images: uint8 [B, 3, H, W], RGB.
        boxes: xyxy [B, G, 4] in pixels.
        labels: [B, G], 0..C-1.
        masks: uint8 [B, G, H, W], or None where nobody wants them.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor | None


def draw(case: Case, seed: int = 0) -> Scene:
    """Colored clouds of several sizes, boxes strewn over them, and ellipses as masks."""
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
    masks = _ellipses(boxes, height, width) if case.alike == "mask_rcnn" and case.task == "train" else None
    return Scene((images.clamp(0, 1) * 255).byte(), boxes, labels, masks)


def _ellipses(boxes: Tensor, height: int, width: int) -> Tensor:
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    center, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    dx = (x - center[..., :1]) / half[..., :1]
    dy = (y - center[..., 1:]) / half[..., 1:]
    return (dx[..., None, :] ** 2 + dy[..., :, None] ** 2 < 1).byte()


def as_batch(scene: Scene, divisor: int):
    """In our form, padded to a canvas whose sides are multiples of ``divisor``."""
    from libradet.data.batch import Batch
    from libradet.geometry.masks import pack_masks

    height, width = scene.images.shape[2:]
    pad = (0, -width % divisor, 0, -height % divisor)
    sizes = torch.tensor([[height, width]]).expand(len(scene.images), -1).contiguous()
    masks = None if scene.masks is None else pack_masks(F.pad(scene.masks, pad))
    images = F.pad(scene.images, pad).contiguous(memory_format=torch.channels_last)
    return Batch(images, sizes, scene.boxes, scene.labels, torch.zeros_like(scene.labels, dtype=torch.bool), masks)


def as_lists(scene: Scene, first_label: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """In torchvision's form: images 0..1, and targets whose labels count from ``first_label``."""
    targets = [{"boxes": b, "labels": n + first_label} for b, n in zip(scene.boxes, scene.labels, strict=True)]
    for target, masks in zip(targets, scene.masks if scene.masks is not None else (), strict=False):
        target["masks"] = masks
    return list(scene.images.float() / 255), targets
