"""From image files to a batch: decoded, resized, flipped, padded. The same for training, evaluation, prediction."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from libradet.data.batch import Batch
from libradet.data.images import load_image, to_tensor
from libradet.errors import UserError
from libradet.geometry.masks import pack_masks

__all__ = [
    *["Sample", "Size", "canvas_of", "collate", "flip", "load_image", "pixels_of", "prepare", "resize"],
    *["resize_to", "stored_size", "target_size", "unlabeled"],
]

Size = tuple[int, int] | Literal["original"]
"""(short, long): the short side becomes ``short`` unless the long one would exceed ``long``. "original": as it is."""


class Sample(NamedTuple):
    """An image ready for a batch; ``scale`` is resized over original size, (x, y)."""

    image: UInt8[Tensor, "3 H W"]
    boxes: Float[Tensor, "G 4"]
    labels: Int[Tensor, " G"]
    crowd: Bool[Tensor, " G"]
    scale: tuple[float, float]
    index: int
    masks: UInt8[Tensor, "G H W"] | None = None
    proposals: Float[Tensor, "P 4"] | None = None


def target_size(height: int, width: int, size: Size) -> tuple[int, int]:
    """Height and width after resizing."""
    if size == "original":
        return height, width
    short, long = size
    scale = min(short / min(height, width), long / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def stored_size(height: int, width: int, size: Size, zoom: float | None) -> tuple[int, int]:
    """Height and width at which an image's pixels are kept between epochs.

    That after resizing; where images are also resized at random, by up to ``zoom``, ``zoom`` times as much, but no
    more than there is.
    """
    rows, columns = target_size(height, width, size)
    return (rows, columns) if zoom is None else (min(height, round(rows * zoom)), min(width, round(columns * zoom)))


def resize(image: UInt8[Tensor, "3 H W"], size: Size) -> tuple[UInt8[Tensor, "3 h w"], float, float]:
    """The image resized (bilinear, antialiased), and its scales in x and y."""
    height, width = image.shape[1:]
    new_height, new_width = target_size(height, width, size)
    return resize_to(image, new_height, new_width), new_width / width, new_height / height


def resize_to(image: UInt8[Tensor, "3 H W"], height: int, width: int) -> UInt8[Tensor, "3 {height} {width}"]:
    """The image resized (bilinear, antialiased); itself if it has that size."""
    if image.shape[1:] == (height, width):
        return image
    return F.resize(image, [height, width], InterpolationMode.BILINEAR, antialias=True)


def flip(sample: Sample) -> Sample:
    """The sample mirrored left to right."""
    width = sample.image.shape[2]
    masks = None if sample.masks is None else sample.masks.flip(2)
    proposals = None if sample.proposals is None else _mirror(sample.proposals, width)
    return sample._replace(
        image=sample.image.flip(2), boxes=_mirror(sample.boxes, width), masks=masks, proposals=proposals
    )


def _mirror(boxes: Float[Tensor, "N 4"], width: int) -> Float[Tensor, "N 4"]:
    mirrored = boxes.clone()
    mirrored[:, [0, 2]] = width - boxes[:, [2, 0]]
    return mirrored


def collate(
    samples: Sequence[Sample],
    divisor: int = 1,
    canvas: tuple[int, int] | None = None,
    rows: int | None = None,
    proposals: int | None = None,
) -> Batch:
    """Samples on a common canvas; their masks packed.

    Args:
        divisor: canvas sides are multiples of it, if ``canvas`` is None.
        canvas: height and width that hold every sample.
        rows: ground truths per image (padded); by default the fewest that hold all, at least 1.
        proposals: per image (padded), if they come with the samples; by default as ``rows``.
    """
    shapes = [sample.image.shape[1:] for sample in samples]
    height, width = canvas or (_round_up(max(side), divisor) for side in zip(*shapes, strict=True))
    rows = rows or max(1, *(len(sample.labels) for sample in samples))
    count = len(samples)
    images = _canvas(count, height, width)
    boxes, labels = torch.zeros(count, rows, 4), torch.full((count, rows), -1)
    crowd = torch.zeros(count, rows, dtype=torch.bool)
    with_masks = samples[0].masks is not None
    masks = torch.zeros(count, rows, height, -(-width // 8), dtype=torch.uint8) if with_masks else None
    for i, sample in enumerate(samples):
        (h, w), g = sample.image.shape[1:], len(sample.labels)
        images[i, :, :h, :w] = sample.image
        images[i, :, h:], images[i, :, :h, w:] = 0, 0
        boxes[i, :g], labels[i, :g], crowd[i, :g] = sample.boxes, sample.labels, sample.crowd
        if masks is not None and sample.masks is not None:
            masks[i, :g, :h, : -(-w // 8)] = pack_masks(sample.masks)
    index = torch.tensor([sample.index for sample in samples])
    scales = torch.tensor([sample.scale for sample in samples])
    given = _pad([s.proposals for s in samples if s.proposals is not None], proposals)
    return Batch(images, torch.tensor(shapes), boxes, labels, crowd, masks, index, scales, given)


def _canvas(count: int, height: int, width: int) -> UInt8[Tensor, "{count} 3 {height} {width}"]:
    """Memory for images, not yet written."""
    # Decoders give interleaved pixels and convolutions want them: no transposition on the way.
    shape = count, height, width, 3
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8).permute(0, 3, 1, 2)
    # A worker hands its batch over in shared memory: what lies there already is not copied once more.
    shared = torch.UntypedStorage._new_shared(math.prod(shape))
    return torch.empty(0, dtype=torch.uint8).set_(shared).view(shape).permute(0, 3, 1, 2)


def _pad(proposals: list[Float[Tensor, "_ 4"]], count: int | None) -> Float[Tensor, "B P 4"] | None:
    if not proposals:
        return None
    padded = torch.zeros(len(proposals), count or max(1, *map(len, proposals)), 4)
    for i, boxes in enumerate(proposals):
        padded[i, : len(boxes)] = boxes
    return padded


def prepare(
    images: Sequence[Any], size: Size, divisor: int, proposals: Sequence[Float[Tensor, "_ 4"]] | None = None
) -> Batch:
    """Images without ground truth as one batch, treated like those of an evaluation.

    Args:
        images: paths, PIL images, or uint8 arrays (RGB [H, W, 3], RGBA [H, W, 4] or gray [H, W]).
        proposals: for each image, xyxy in its pixels.

    Raises:
        UserError: something else, or a file that cannot be decoded.
    """
    given = [None] * len(images) if proposals is None else proposals
    rows = enumerate(zip(images, given, strict=True))
    return collate([unlabeled(pixels_of(image), size, row, boxes) for row, (image, boxes) in rows], divisor)


def unlabeled(
    image: UInt8[Tensor, "3 H W"], size: Size, index: int = 0, proposals: Float[Tensor, "P 4"] | None = None
) -> Sample:
    """An image without ground truth, resized as those of an evaluation; ``proposals`` are in its own pixels."""
    empty = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)
    resized, scale_x, scale_y = resize(image, size)
    given = None if proposals is None else proposals * torch.tensor([scale_x, scale_y] * 2)
    return Sample(resized, *empty, (scale_x, scale_y), index, proposals=given)


def canvas_of(sample: Sample, divisor: int) -> tuple[int, int]:
    """Height and width of the smallest canvas that holds the image."""
    height, width = sample.image.shape[1:]
    return _round_up(height, divisor), _round_up(width, divisor)


def pixels_of(image: Any) -> UInt8[Tensor, "3 H W"]:
    """Pixels of a file, a Pillow image or an array, as :func:`prepare` takes them. Raises UserError."""
    if isinstance(image, str | os.PathLike):
        return load_image(Path(image))
    if isinstance(image, Image.Image):
        return to_tensor(image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
        if image.ndim == 3 and image.shape[2] == 3:
            return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 4):
            return to_tensor(Image.fromarray(image))
    what = f"{type(image).__name__} {getattr(image, 'dtype', '')} {tuple(getattr(image, 'shape', ()))}"
    raise UserError(f"Cannot take {what} for an image: give a path, a PIL image or a uint8 RGB array [H, W, 3].")


def _round_up(value: int, divisor: int) -> int:
    return -(-value // divisor) * divisor
