"""Simple copy-paste (Ghiasi et al., CVPR 2021): objects of one image pasted into another.

Edges are left hard, which the paper finds as good as blending. Without segmentations an object is its box, and what
is pasted are rectangles.
"""

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from torchvision.ops import masks_to_boxes

from libradet.data.loading.transforms import Sample
from libradet.data.loading.windows import MIN_SHARE, at_least_a_pixel, drawn, only

CHOSEN = 0.5
"""Probability that an object is pasted; one always is."""

WITH_OTHERS = 0.5
"""An object comes along, as ground truth, if at least this share of it lies in what is pasted."""


def paste(sample: Sample, source: Sample, chance: np.random.Generator) -> Sample:
    """Some objects of ``source`` on ``sample``, both with masks and of one size.

    Objects of ``sample`` are hidden where something is pasted on them: their masks lose that part, sides of boxes
    move as the sides of the mask do, and those that keep less than MIN_SHARE are dropped. Crowd regions are not
    chosen.
    """
    source = drawn(source)
    chosen = _choose(source.crowd, chance)
    if not chosen.any():
        return sample
    assert source.masks is not None
    on_top = source.masks[chosen].amax(0).bool()
    under = _reduced(sample, ~on_top, MIN_SHARE)
    pasted = _reduced(source, on_top, WITH_OTHERS)
    assert under.masks is not None
    assert pasted.masks is not None
    return under._replace(
        image=torch.where(on_top, source.image, sample.image),
        boxes=torch.cat([under.boxes, pasted.boxes]),
        labels=torch.cat([under.labels, pasted.labels]),
        crowd=torch.cat([under.crowd, pasted.crowd]),
        masks=torch.cat([under.masks, pasted.masks]),
    )


def _choose(crowd: Bool[Tensor, " G"], chance: np.random.Generator) -> Bool[Tensor, " G"]:
    chosen = ~crowd & torch.from_numpy(chance.random(len(crowd)) < CHOSEN)
    if not crowd.all():
        chosen[chance.choice(np.flatnonzero(~crowd.numpy()))] = True
    return chosen


def _reduced(sample: Sample, visible: Bool[Tensor, "H W"], least: float) -> Sample:
    """The objects of which at least this share, and a pixel, is ``visible``, and what is visible of them."""
    assert sample.masks is not None
    masks = sample.masks * visible
    before, after = (m.flatten(1).sum(1) for m in (sample.masks, masks))
    moved = torch.where((after > 0)[:, None], _extents(masks) - _extents(sample.masks), 0)
    boxes = sample.boxes + moved
    left = (after >= least * before) & ((after == before) | at_least_a_pixel(boxes))
    return only(sample._replace(masks=masks, boxes=boxes), left)


def _extents(masks: UInt8[Tensor, "G H W"]) -> Tensor:
    return masks_to_boxes(masks) if len(masks) else torch.zeros(0, 4)
