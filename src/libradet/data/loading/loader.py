"""Batches in an order, and with augmentations, that depend on (seed, epoch) and nothing else.

Nothing here has a state that would have to be saved: a run that is resumed, or spread over other
processes, sees the same images, augmented alike, in the same joint batches.
"""

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray
from torch.utils.data import DataLoader

from libradet.data.batch import Batch
from libradet.data.loading.augmentation import FLIPPED, NONE, Augmentation
from libradet.data.loading.cache import ImageCache
from libradet.data.loading.canvases import assign_canvases, choose_canvases, own_canvases
from libradet.data.loading.samples import Key, Samples
from libradet.data.loading.transforms import Sample, Size, collate, target_size
from libradet.data.proposals.given import GivenProposals
from libradet.data.records import Dataset
from libradet.data.segmentations import require_masks
from libradet.errors import UserError


class ImageLoader(DataLoader):
    """A loader that raises in this process, and as they are, the errors that its workers met."""

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch


class BatchSampler:
    """Lists of :class:`Key`, one for each batch of this process; images of a batch share a canvas.

    Training: every image at least once in an epoch; a canvas's last batch is filled up from its first
    images, so that all batches are full. Evaluation: every image once over all processes, except
    that a process with nothing left repeats one, to stay in step: gather by ``Batch.index``.
    """

    def __init__(
        self, canvas_of: Int64[ndarray, " N"], batch_size: int, training: bool, seed: int, rank: int, world_size: int
    ) -> None:
        self.canvas_of, self.batch_size, self.training, self.seed = canvas_of, batch_size, training, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.start = 0, 0
        joint = batch_size * world_size
        self.length = sum(-(-int(count) // joint) for count in np.bincount(canvas_of))

    def set_epoch(self, epoch: int) -> None:
        """Go on to another epoch, from its first batch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def set_start(self, batches: int) -> None:
        """Leave out the first batches of the current epoch, without loading their images."""
        self.start = batches

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.length

    def __iter__(self) -> Iterator[list[Key]]:
        plan = self._shuffled() if self.training else self._in_order()
        for rows in plan[self.start :]:
            own = rows[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
            own = own if len(own) else rows[-1:]
            yield [Key(self.epoch, int(index)) for index in own]

    def _shuffled(self) -> list[ndarray]:
        chance = np.random.default_rng([self.seed, self.epoch])
        order = chance.permutation(len(self.canvas_of))
        joint = self.batch_size * self.world_size
        batches: list[ndarray] = []
        for canvas in np.unique(self.canvas_of):
            group = order[self.canvas_of[order] == canvas]
            full = np.resize(group, -(-len(group) // joint) * joint)
            batches += list(full.reshape(-1, joint))
        return [batches[i] for i in chance.permutation(len(batches))]

    def _in_order(self) -> list[ndarray]:
        joint = self.batch_size * self.world_size
        groups = (np.flatnonzero(self.canvas_of == canvas) for canvas in np.unique(self.canvas_of))
        return [group[i : i + joint] for group in groups for i in range(0, len(group), joint)]


def make_loader(
    dataset: Dataset,
    *,
    size: Size,
    batch_size: int,
    training: bool,
    divisor: int = 64,
    workers: int = 0,
    seed: int = 0,
    epoch: int = 0,
    augmentation: Augmentation = FLIPPED,
    rank: int = 0,
    world_size: int = 1,
    masks: bool = False,
    proposals: GivenProposals | None = None,
    cache: ImageCache | None = None,
    own_canvas: bool = False,
) -> DataLoader:
    """Batches of a dataset; ``loader.batch_sampler`` has ``set_epoch`` and ``set_start``.

    Args:
        size: (short, long) side, or "original".
        batch_size: images per process; process ``rank`` takes rows ``rank * batch_size`` and on of the
            joint batch, so several processes see what a single one with the joint batch would.
        training: shuffled, augmented, full batches, large JPEG files decoded at reduced size (see
            ``images.SPARE``); otherwise in order, as they are, each once.
        divisor: canvas sides are multiples of it.
        augmentation: of images in training.
        masks: fill ``Batch.masks`` (packed).
        proposals: what to fill ``Batch.proposals`` from.
        cache: where to keep the images, of this dataset at this size and zoom, that were loaded once.
        own_canvas: every image on the smallest canvas that holds it, in as many batches as that takes.

    Raises:
        UserError: masks are asked for and an object has no segmentation, or images with proposals shall be mixed.
    """
    if masks:
        require_masks(dataset)
    augmentation = augmentation if training else NONE
    check_mixing(augmentation, proposals is not None)
    shapes = np.array([target_size(p.height, p.width, size) for p in dataset.images], np.int64).reshape(-1, 2)
    canvases = own_canvases(shapes, divisor) if own_canvas else choose_canvases(shapes, divisor)
    canvas_of = assign_canvases(shapes, canvases)
    sampler = BatchSampler(canvas_of, batch_size, training, seed, rank, world_size)
    sampler.set_epoch(epoch)
    given = proposals.count if proposals else None
    most = _most_rows(dataset, augmentation.crowding)
    gather = partial(_gather, canvases=canvases, canvas_of=canvas_of, most=most, proposals=given)
    frames = np.array(canvases, np.int64).reshape(-1, 2)[canvas_of]
    return ImageLoader(
        Samples(dataset, size, seed, augmentation, frames, masks, proposals, training, cache),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=gather,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=_leave_process_group,
    )


def check_mixing(augmentation: Augmentation, proposals: bool) -> None:
    """Refuse to mix images that come with proposals. Raises UserError."""
    if proposals and augmentation.mixes:
        raise UserError(
            "mosaic and copy_paste make images of which nobody has proposals: set both to 0, or take a model with an "
            "rpn of its own"
        )


def _gather(
    samples: list[Sample | UserError],
    canvases: list[tuple[int, int]],
    canvas_of: Int64[ndarray, " N"],
    most: int,
    proposals: int | None,
) -> Batch | UserError:
    """Few distinct numbers of ground truths, too: powers of two from 8, up to ``most``, the most there can be."""
    whole: list[Sample] = []
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
        whole.append(sample)
    held = max(len(sample.labels) for sample in whole)
    rows = min(most, max(8, 1 << (held - 1).bit_length()))
    return collate(whole, canvas=canvases[canvas_of[whole[0].index]], rows=rows, proposals=proposals)


def _most_rows(dataset: Dataset, images: int) -> int:
    """Of one image into which the objects of so many may have come."""
    most = images * max((len(image.labels) for image in dataset.images), default=0)
    return max(8, -(-most // 8) * 8)


def _leave_process_group(worker: int) -> None:
    """Ctrl-C and a SIGTERM to the group reach the training process alone, which then ends its workers in order."""
    os.setpgrp()
