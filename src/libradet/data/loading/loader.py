"""Batches in an order, and with augmentations, that depend on (seed, epoch) and nothing else.

Nothing here has a state that would have to be saved: a run that is resumed, or spread over other
processes, sees the same pictures, flipped alike, in the same joint batches.
"""

import os
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy import ndarray
from torch import Tensor
from torch.utils.data import DataLoader

from libradet.data.batch import Batch
from libradet.data.loading.cache import PictureCache
from libradet.data.loading.canvases import assign_canvases, choose_canvases, own_canvases
from libradet.data.loading.transforms import Sample, Size, collate, flip, load_picture, resize_to, target_size
from libradet.data.proposals.given import GivenProposals
from libradet.data.rasterise import decode_masks
from libradet.data.records import Dataset
from libradet.data.segmentations import require_masks
from libradet.errors import UserError


class Key(NamedTuple):
    """Which picture, and when: all that its augmentation depends on besides the seed."""

    epoch: int
    index: int


class Samples(torch.utils.data.Dataset):
    """A data set by :class:`Key`: decoded, resized, flipped with probability ``flip_chance``.

    ``reduced`` lets large JPEG files be decoded at a smaller size first.
    """

    def __init__(
        self,
        dataset: Dataset,
        size: Size,
        seed: int,
        flip_chance: float,
        masks: bool,
        proposals: GivenProposals | None,
        reduced: bool,
        cache: PictureCache | None,
    ) -> None:
        self.dataset, self.size, self.seed, self.flip_chance, self.masks = dataset, size, seed, flip_chance, masks
        self.proposals, self.reduced, self.cache = proposals, reduced, cache

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Sample | UserError:
        """The sample, or what is wrong with it: raised in a worker, it would arrive in wrappings."""
        try:
            return self._load(key)
        except UserError as error:
            return error

    def _load(self, key: Key) -> Sample:
        picture = self.dataset.pictures[key.index]
        height, width = target_size(picture.height, picture.width, self.size)
        image = self._pixels(key.index, height, width)
        scale_x, scale_y = width / picture.width, height / picture.height
        scales = torch.tensor([scale_x, scale_y, scale_x, scale_y])
        boxes, given = torch.from_numpy(picture.boxes) * scales, None
        if self.proposals is not None:
            given = self.proposals.of(key.index, picture.width, picture.height) * scales
        masks = decode_masks(picture, height, width) if self.masks else None
        labels, crowd = torch.from_numpy(picture.labels), torch.from_numpy(picture.crowd)
        sample = Sample(image, boxes, labels, crowd, (scale_x, scale_y), key.index, masks, given)
        chance = np.random.default_rng([self.seed, key.epoch, key.index, 1]).random()
        return flip(sample) if chance < self.flip_chance else sample

    def _pixels(self, index: int, height: int, width: int) -> UInt8[Tensor, "3 {height} {width}"]:
        kept = self.cache.get(index) if self.cache else None
        if kept is not None:
            return kept
        picture = self.dataset.pictures[index]
        known = (picture.height, picture.width)
        pixels = load_picture(picture.path, picture.upright, (height, width) if self.reduced else None, known)
        resized = resize_to(pixels, height, width)
        if self.cache:
            self.cache.put(index, resized)
        return resized


class PictureLoader(DataLoader):
    """A loader that raises in this process, and as they are, the errors that its workers met."""

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch


class BatchSampler:
    """Lists of :class:`Key`, one for each batch of this process; pictures of a batch share a canvas.

    Training: every picture at least once in an epoch; a canvas's last batch is filled up from its first
    pictures, so that all batches are full. Evaluation: every picture once over all processes, except
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
        """Leave out the first batches of the current epoch, without loading their pictures."""
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
    flip: float = 0.5,
    rank: int = 0,
    world_size: int = 1,
    masks: bool = False,
    proposals: GivenProposals | None = None,
    cache: PictureCache | None = None,
    own_canvas: bool = False,
) -> DataLoader:
    """Batches of a data set; ``loader.batch_sampler`` has ``set_epoch`` and ``set_start``.

    Args:
        size: (short, long) side, or "original".
        batch_size: pictures per process; process ``rank`` takes rows ``rank · batch_size`` and on of the
            joint batch, so several processes see what a single one with the joint batch would.
        training: shuffled, augmented, full batches, large JPEG files decoded at reduced size (see
            ``pictures.SPARE``); otherwise in order, as they are, each once.
        divisor: canvas sides are multiples of it.
        flip: probability of mirroring a picture in training.
        masks: fill ``Batch.masks`` (packed).
        proposals: what to fill ``Batch.proposals`` from.
        cache: where to keep the pictures, of this data set at this size, that were loaded once.
        own_canvas: every picture on the smallest canvas that holds it, in as many batches as that takes.

    Raises:
        UserError: masks are asked for and an object has no segmentation.
    """
    if masks:
        require_masks(dataset)
    shapes = np.array([target_size(p.height, p.width, size) for p in dataset.pictures], np.int64).reshape(-1, 2)
    canvases = own_canvases(shapes, divisor) if own_canvas else choose_canvases(shapes, divisor)
    canvas_of = assign_canvases(shapes, canvases)
    sampler = BatchSampler(canvas_of, batch_size, training, seed, rank, world_size)
    sampler.set_epoch(epoch)
    given = proposals.count if proposals else None
    gather = partial(_gather, canvases=canvases, canvas_of=canvas_of, most=_most_rows(dataset), proposals=given)
    return PictureLoader(
        Samples(dataset, size, seed, flip if training else 0.0, masks, proposals, training, cache),
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=gather,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=_leave_process_group,
    )


def _gather(
    samples: list[Sample | UserError],
    canvases: list[tuple[int, int]],
    canvas_of: Int64[ndarray, " N"],
    most: int,
    proposals: int | None,
) -> Batch | UserError:
    """Few distinct numbers of ground truths, too: powers of two from 8, up to the data set's most."""
    whole: list[Sample] = []
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
        whole.append(sample)
    held = max(len(sample.labels) for sample in whole)
    rows = min(most, max(8, 1 << (held - 1).bit_length()))
    return collate(whole, canvas=canvases[canvas_of[whole[0].index]], rows=rows, proposals=proposals)


def _most_rows(dataset: Dataset) -> int:
    most = max((len(picture.labels) for picture in dataset.pictures), default=0)
    return max(8, -(-most // 8) * 8)


def _leave_process_group(worker: int) -> None:
    """Ctrl-C and a SIGTERM to the group reach the training process alone, which then ends its workers in order."""
    os.setpgrp()
