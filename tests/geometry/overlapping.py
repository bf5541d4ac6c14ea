"""Boxes that overlap a lot."""

import torch


def candidates(pictures=2, number=60, groups=3, seed=0, device="cpu"):
    """Boxes [B, N, 4] that overlap a lot, distinct scores, groups and validity."""
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(pictures, number, 2, generator=g) * 40 - 10
    boxes = torch.cat([corner, corner + 5 + torch.rand(pictures, number, 2, generator=g) * 20], -1)
    scores = torch.stack([torch.randperm(number, generator=g) for _ in range(pictures)]) / number
    group = torch.randint(groups, (pictures, number), generator=g)
    valid = torch.rand(pictures, number, generator=g) < 0.8
    return tuple(t.to(device) for t in (boxes, scores, group, valid))
