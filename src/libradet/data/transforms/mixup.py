"""Mixup of two images (Zhang et al., ICLR 2018), with the boxes of both, as YOLOX has it (Ge et al., 2021).

Both images have a weight of one half: with other weights, boxes would mark objects that are hardly visible, and whose
loss would have to be weighted.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from libradet.data.transforms.sample import Sample


def mixup(sample: Sample, source: Sample, offset: tuple[int, int]) -> Sample:
    """Average ``sample`` with ``source``, which lies inside of it with its top left corner at ``offset`` (y, x).

    Pixels that ``source`` does not cover are unchanged. Objects are those of both, the source's last; both or none
    have masks. Scale, index and proposals are those of ``sample``.
    """
    top, left = offset
    rows, columns = source.image.shape[1:]
    image = sample.image.clone()
    region = image[:, top : top + rows, left : left + columns]
    region.copy_((region.to(torch.int16) + source.image + 1) // 2)
    boxes = source.boxes + torch.tensor([left, top, left, top])
    return sample._replace(
        image=image,
        boxes=torch.cat([sample.boxes, boxes]),
        labels=torch.cat([sample.labels, source.labels]),
        crowd=torch.cat([sample.crowd, source.crowd]),
        masks=_concatenate_masks(sample.masks, source.masks, offset),
    )


def _concatenate_masks(masks: Tensor | None, added: Tensor | None, offset: tuple[int, int]) -> Tensor | None:
    if masks is None or added is None:
        return None
    top, left = offset
    bottom, right = masks.shape[1] - top - added.shape[1], masks.shape[2] - left - added.shape[2]
    return torch.cat([masks, F.pad(added, (left, right, top, bottom))])
