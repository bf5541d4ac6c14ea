"""Simple copy-paste (Ghiasi et al., CVPR 2021): objects of one image pasted into another.

Edges stay hard, which the paper reports to be as good as blending. The mask of an object without segmentation is its
box, so rectangles are pasted.
"""

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from libradet.data.transforms.crop import MIN_VISIBLE_SHARE
from libradet.data.transforms.sample import Sample, filter_instances, is_at_least_one_pixel, remove_empty_masks

PASTE_PROB = 0.5
"""Probability that an object is pasted; at least one always is."""

MIN_PASTED_SHARE = 0.5
"""Another object of the source becomes ground truth if at least this share of it lies in the pasted pixels."""


def copy_paste(sample: Sample, source: Sample, rng: np.random.Generator) -> Sample:
    """Paste some objects of ``source`` into ``sample``; both have masks and the same size.

    Pasted pixels hide objects of ``sample``: their masks lose that part, the sides of their boxes move as the sides
    of the masks do, and objects that keep less than MIN_VISIBLE_SHARE are dropped. Crowd regions are not pasted.
    """
    source = remove_empty_masks(source)
    chosen = _choose_objects(source.crowd, rng)
    if not chosen.any():
        return sample
    assert source.masks is not None
    pasted_pixels = source.masks[chosen].amax(0).bool()
    background = _keep_visible(sample, ~pasted_pixels, MIN_VISIBLE_SHARE)
    pasted = _keep_visible(source, pasted_pixels, MIN_PASTED_SHARE)
    assert background.masks is not None
    assert pasted.masks is not None
    return background._replace(
        image=torch.where(pasted_pixels, source.image, sample.image),
        boxes=torch.cat([background.boxes, pasted.boxes]),
        labels=torch.cat([background.labels, pasted.labels]),
        crowd=torch.cat([background.crowd, pasted.crowd]),
        masks=torch.cat([background.masks, pasted.masks]),
    )


def _choose_objects(crowd: Bool[Tensor, " G"], rng: np.random.Generator) -> Bool[Tensor, " G"]:
    chosen = ~crowd & torch.from_numpy(rng.random(len(crowd)) < PASTE_PROB)
    if not crowd.all():
        chosen[rng.choice(np.flatnonzero(~crowd.numpy()))] = True
    return chosen


def _keep_visible(sample: Sample, visible: Bool[Tensor, "H W"], min_share: float) -> Sample:
    """Return the objects of which at least ``min_share``, and a pixel, is visible, reduced to their visible part."""
    assert sample.masks is not None
    masks = sample.masks * visible
    before, after = count_pixels(sample.masks), count_pixels(masks)
    shift = torch.where((after > 0)[:, None], mask_boxes(masks) - mask_boxes(sample.masks), 0)
    boxes = sample.boxes + shift
    keep = (after >= min_share * before) & ((after == before) | is_at_least_one_pixel(boxes))
    return filter_instances(sample._replace(masks=masks, boxes=boxes), keep)


def count_pixels(masks: UInt8[Tensor, "G H W"]) -> Int[Tensor, " G"]:
    """Return the pixels of each mask, by NumPy, which adds bytes faster than torch."""
    return torch.from_numpy(masks.flatten(1).numpy().sum(1, dtype=np.int64))


def mask_boxes(masks: UInt8[Tensor, "G H W"]) -> Int[Tensor, "G 4"]:
    """Return first and last column and row of each mask, as ``torchvision.ops.masks_to_boxes`` does mask by mask.

    Those of an empty mask are the whole image.
    """
    height, width = masks.shape[1:]
    columns, rows = masks.amax(1), masks.amax(2)
    first = (columns.argmax(1), rows.argmax(1))
    last = (width - 1 - columns.flip(1).argmax(1), height - 1 - rows.flip(1).argmax(1))
    return torch.stack([*first, *last], dim=1)
