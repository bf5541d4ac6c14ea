"""Shrinking of a sample that augmentation made larger than its padded size."""

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from libradet.data.transforms.resize import resize_to, scale_size
from libradet.data.transforms.sample import Sample, remove_empty_masks


def shrink_to_fit(sample: Sample, max_size: tuple[int, int]) -> Sample:
    """Return the sample, shrunk where it exceeds ``max_size`` (height, width), with its aspect ratio.

    Rotations, zooming out and padding change the size of an image, but the padded size of its batch is that of the
    dataset. Smaller images are unchanged.
    """
    height, width = sample.image.shape[1:]
    factor = min(1.0, max_size[0] / height, max_size[1] / width)
    if factor == 1.0:
        return sample
    rows, columns = scale_size(height, width, factor)
    scale_x, scale_y = columns / width, rows / height
    scales = torch.tensor([scale_x, scale_y, scale_x, scale_y])
    # Interleaved, as decoders return pixels: torch fails on others if only one column remains.
    interleaved = sample.image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    shrunk = sample._replace(
        image=resize_to(interleaved, rows, columns),
        boxes=sample.boxes * scales,
        proposals=None if sample.proposals is None else sample.proposals * scales,
        scale=(sample.scale[0] * scale_x, sample.scale[1] * scale_y),
    )
    if sample.masks is None:
        return shrunk
    masks = torch.zeros(0, rows, columns, dtype=torch.uint8)
    if len(sample.masks):
        masks = F.resize(sample.masks, [rows, columns], InterpolationMode.NEAREST_EXACT)
    return remove_empty_masks(shrunk._replace(masks=masks))
