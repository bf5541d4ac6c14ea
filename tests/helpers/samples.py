"""Random samples for tests of transforms and batches."""

import torch

from libradet.data.transforms.sample import Sample


def random_sample(width: int, height: int, count: int, index: int = 0, masks: bool = False) -> Sample:
    """Return an image with random pixels, boxes and, on request, masks."""
    corners = torch.rand(count, 2, 2).sort(1).values * torch.tensor([width, height])
    drawn = torch.randint(0, 2, (count, height, width), dtype=torch.uint8) if masks else None
    image = torch.randint(1, 255, (3, height, width), dtype=torch.uint8)
    labels = torch.arange(count) % 3
    return Sample(image, corners.flatten(1), labels, labels == 2, (1.0, 1.0), index, drawn)
