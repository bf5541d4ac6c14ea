"""Random samples for tests of transforms and batches."""

import torch

from libradet.data.transforms.sample import Sample

COLOR_STEP = 40
"""Difference between the colors of two objects of ``drawn_rectangles``."""


def random_sample(width: int, height: int, count: int, index: int = 0, masks: bool = False) -> Sample:
    """Return an image with random pixels, boxes and, on request, masks."""
    corners = torch.rand(count, 2, 2).sort(1).values * torch.tensor([width, height])
    drawn = torch.randint(0, 2, (count, height, width), dtype=torch.uint8) if masks else None
    image = torch.randint(1, 255, (3, height, width), dtype=torch.uint8)
    labels = torch.arange(count) % 3
    return Sample(image, corners.flatten(1), labels, labels == 2, (1.0, 1.0), index, drawn)


def drawn_rectangles(count: int, masks: bool = True) -> Sample:
    """Return at most six separate rectangles on black: object i has label i and color COLOR_STEP * (i + 1).

    Every third one is a crowd region.
    """
    height, width = 60, 80
    image, boxes = torch.zeros(3, height, width, dtype=torch.uint8), []
    for i in range(count):
        left, top = 4 + 26 * (i % 3), 4 + 30 * (i // 3)
        boxes.append([left, top, left + 15 + i, top + 20 - i])
        image[:, top : top + 20 - i, left : left + 15 + i] = COLOR_STEP * (i + 1)
    labels = torch.arange(count)
    drawn = (image[0] == COLOR_STEP * (labels + 1)[:, None, None]).to(torch.uint8) if masks else None
    corners = torch.tensor(boxes).float().reshape(-1, 4)
    return Sample(image, corners, labels, labels % 3 == 2, (1.0, 1.0), 0, drawn)
