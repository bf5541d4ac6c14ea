"""Boxes that overlap a lot."""

import torch


def candidates(images=2, number=60, groups=3, seed=0, device="cpu"):
    """Boxes [B, N, 4] that overlap a lot, distinct scores, groups and validity."""
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(images, number, 2, generator=g) * 40 - 10
    boxes = torch.cat([corner, corner + 5 + torch.rand(images, number, 2, generator=g) * 20], -1)
    scores = torch.stack([torch.randperm(number, generator=g) for _ in range(images)]) / number
    group = torch.randint(groups, (images, number), generator=g)
    valid = torch.rand(images, number, generator=g) < 0.8
    return tuple(t.to(device) for t in (boxes, scores, group, valid))
