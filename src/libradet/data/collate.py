"""Collation of samples to a padded batch."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import get_worker_info

from libradet.data.batch import Batch
from libradet.data.image_io import image_to_tensor
from libradet.data.transforms.resize import Size, resize
from libradet.data.transforms.sample import Sample
from libradet.geometry.masks import pack_masks


def collate(
    samples: Sequence[Sample],
    size_divisible: int = 1,
    padded_size: tuple[int, int] | None = None,
    max_objects: int | None = None,
    max_proposals: int | None = None,
) -> Batch:
    """Pad samples to a common size and stack them; masks are packed.

    Args:
        samples: of one batch.
        size_divisible: the padded sides are multiples of it, if ``padded_size`` is None.
        padded_size: height and width that hold every sample.
        max_objects: ground truths per image (padded); by default the fewest that hold all, at least 1.
        max_proposals: proposals per image (padded), if samples have some; default as for ``max_objects``.
    """
    shapes = [sample.image.shape[1:] for sample in samples]
    height, width = padded_size or (_round_up(max(side), size_divisible) for side in zip(*shapes, strict=True))
    rows = max_objects or max(1, *(len(sample.labels) for sample in samples))
    count = len(samples)
    images = _allocate_images(count, height, width)
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
    proposals = _pad_proposals([s.proposals for s in samples if s.proposals is not None], max_proposals)
    return Batch(images, torch.tensor(shapes), boxes, labels, crowd, masks, index, scales, proposals)


def _allocate_images(count: int, height: int, width: int) -> UInt8[Tensor, "{count} 3 {height} {width}"]:
    """Allocate memory for images, uninitialized."""
    # Decoders return interleaved pixels and convolutions prefer channels_last: no transposition in between.
    shape = count, height, width, 3
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8).permute(0, 3, 1, 2)
    # A worker sends its batch through shared memory: allocating it there saves a copy.
    shared = torch.UntypedStorage._new_shared(math.prod(shape))
    return torch.empty(0, dtype=torch.uint8).set_(shared).view(shape).permute(0, 3, 1, 2)


def _pad_proposals(proposals: list[Float[Tensor, "_ 4"]], count: int | None) -> Float[Tensor, "B P 4"] | None:
    if not proposals:
        return None
    padded = torch.zeros(len(proposals), count or max(1, *map(len, proposals)), 4)
    for i, boxes in enumerate(proposals):
        padded[i, : len(boxes)] = boxes
    return padded


def prepare_batch(
    images: Sequence[Any], size: Size, size_divisible: int, proposals: Sequence[Float[Tensor, "_ 4"]] | None = None
) -> Batch:
    """Return images without ground truth as one batch, preprocessed as in evaluation.

    Args:
        images: paths, PIL images, or uint8 arrays (RGB [H, W, 3], RGBA [H, W, 4] or gray [H, W]).
        size: (short, long) side, or "original".
        size_divisible: the padded sides are multiples of it.
        proposals: for each image, xyxy in its pixels.

    Raises:
        UserError: something else, or a file that cannot be decoded.
    """
    boxes_per_image = [None] * len(images) if proposals is None else proposals
    pairs = enumerate(zip(images, boxes_per_image, strict=True))
    samples = [unlabeled_sample(image_to_tensor(image), size, row, boxes) for row, (image, boxes) in pairs]
    return collate(samples, size_divisible)


def unlabeled_sample(
    image: UInt8[Tensor, "3 H W"], size: Size, index: int = 0, proposals: Float[Tensor, "P 4"] | None = None
) -> Sample:
    """Return an image without ground truth, resized as in evaluation; ``proposals`` are in its original pixels."""
    no_boxes, no_labels, no_crowd = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0).bool()
    resized, scale_x, scale_y = resize(image, size)
    scaled = None if proposals is None else proposals * torch.tensor([scale_x, scale_y] * 2)
    return Sample(resized, no_boxes, no_labels, no_crowd, (scale_x, scale_y), index, proposals=scaled)


def padded_size_of(sample: Sample, size_divisible: int) -> tuple[int, int]:
    """Return height and width of the smallest padded size that holds the image."""
    height, width = sample.image.shape[1:]
    return _round_up(height, size_divisible), _round_up(width, size_divisible)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
