"""Data loaders whose order and augmentation depend on (seed, epoch) only.

A loader has no state to save: a run that is resumed, or distributed over other processes, reads the same images with
the same augmentation in the same joint batches.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray
from torch.utils.data import DataLoader

from libradet.data.batch import Batch
from libradet.data.batching import group_by_padded_size
from libradet.data.bit_depth import DEFAULT_BIT_DEPTH
from libradet.data.cache import ImageCache
from libradet.data.collate import collate
from libradet.data.dataset import DetectionDataset, SampleIndex
from libradet.data.proposals.precomputed import PrecomputedProposals
from libradet.data.records import Dataset
from libradet.data.repeat_factors import occurrence_fractions, repeat_factors
from libradet.data.sampler import GroupedBatchSampler
from libradet.data.segmentations import require_masks
from libradet.data.transforms.augmentation import HFLIP_ONLY, NO_AUGMENTATION, Augmentation
from libradet.data.transforms.resize import Size, target_size
from libradet.data.transforms.sample import Sample
from libradet.errors import UserError

MIN_PADDED_OBJECTS = 8
"""Smallest number of ground truths per image in a batch, padding included."""


@dataclass(frozen=True)
class LoadError:
    """A UserError on its way from a worker: torch would wrap a raised one in a traceback of many lines."""

    error: UserError


class _CatchingDataset(torch.utils.data.Dataset):
    """Load batches of a dataset, and return a :class:`LoadError` in place of a batch that raises UserError."""

    def __init__(self, dataset: DetectionDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, keys: Sequence[SampleIndex]) -> list[Sample] | LoadError:
        try:
            return [self.dataset[key] for key in keys]
        except UserError as error:
            return LoadError(error)


class DetectionDataLoader(DataLoader):
    """Data loader that raises the UserError of a worker unchanged, in this process."""

    def __iter__(self) -> Any:
        error = None
        for batch in super().__iter__():
            if isinstance(batch, LoadError):
                error = batch.error
                break
            yield batch
        if error is not None:
            # Stop persistent workers now: with the traceback in a reference cycle, torch waits 5 s for each of them.
            self._iterator = None
            raise error


def make_loader(
    dataset: Dataset,
    *,
    size: Size,
    batch_size: int,
    training: bool,
    size_divisible: int = 64,
    num_workers: int = 0,
    seed: int = 0,
    epoch: int = 0,
    augmentation: Augmentation = HFLIP_ONLY,
    rank: int = 0,
    world_size: int = 1,
    masks: bool = False,
    proposals: PrecomputedProposals | None = None,
    cache: ImageCache | None = None,
    batch_invariant_padding: bool = False,
    repeat_factor_thresh: float = 0.0,
    empty_fraction: float = 1.0,
    bit_depth: int = DEFAULT_BIT_DEPTH,
) -> DataLoader:
    """Return the data loader of a dataset; its ``batch_sampler`` has ``set_epoch`` and ``set_start``.

    Args:
        dataset: images and ground truth.
        size: (short, long) side, or "original".
        batch_size: images per process; process ``rank`` loads rows ``rank * batch_size`` and following of the
            joint batch, so several processes load the same as a single one with the joint batch.
        training: shuffled, augmented, full batches, large JPEG files decoded at reduced size (see
            ``image_io.MIN_REDUCTION_MARGIN``); otherwise in order, unchanged, each image once.
        size_divisible: padded sides are multiples of it.
        num_workers: processes that load images.
        seed, epoch: of order and augmentation.
        augmentation: of training images.
        rank, world_size: of this process.
        masks: fill ``Batch.masks`` (packed).
        proposals: fill ``Batch.proposals`` from these.
        cache: keeps the decoded images of this dataset at this size and maximum scale.
        batch_invariant_padding: pad each image to the smallest size that holds it, in as many batches as needed.
        repeat_factor_thresh: in training, images with classes in a smaller fraction of the images occur several times
            in an epoch (:mod:`libradet.data.repeat_factors`).
        empty_fraction: in training, fraction of the images without objects that occur in an epoch, others in each.
        bit_depth: of the values in 16-bit files: 2**bit_depth - 1 is white.

    Raises:
        UserError: masks are requested and an object has no segmentation, or mixed images have proposals.
    """
    if masks:
        require_masks(dataset)
    augmentation = augmentation if training else NO_AUGMENTATION
    check_mixing(augmentation, proposals is not None)
    shapes = np.array([target_size(p.height, p.width, size) for p in dataset.images], np.int64).reshape(-1, 2)
    padded_sizes, group_ids = group_by_padded_size(shapes, size_divisible, batch_invariant_padding)
    is_thinned = training and empty_fraction < 1
    has_factors = is_thinned or (training and repeat_factor_thresh > 0)
    factors = repeat_factors(dataset, repeat_factor_thresh, empty_fraction) if has_factors else None
    sampler = GroupedBatchSampler(group_ids, batch_size, training, seed, rank, world_size, factors)
    sampler.set_epoch(epoch)
    size_of_image = np.array(padded_sizes, np.int64).reshape(-1, 2)[group_ids]
    frequencies = occurrence_fractions(dataset, empty_fraction) if is_thinned else None
    samples = DetectionDataset(
        dataset, size, seed, augmentation, size_of_image, masks, proposals, training, cache, bit_depth, frequencies
    )
    return DetectionDataLoader(
        _CatchingDataset(samples),
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=partial(
            _collate_batch,
            padded_sizes=size_of_image,
            max_objects=_max_objects(dataset, augmentation.max_source_images),
            num_proposals=proposals.num_proposals if proposals else None,
        ),
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        worker_init_fn=_leave_process_group,
    )


def check_mixing(augmentation: Augmentation, has_proposals: bool) -> None:
    """Raise UserError if images with precomputed proposals would be mixed, or changed by users' own transforms."""
    if has_proposals and augmentation.is_mixed:
        raise UserError(
            "mosaic, copy-paste and mixup create images that have no precomputed proposals: set mosaic_prob, "
            "copy_paste_prob and mixup_prob to 0, or use a model with an RPN"
        )
    if has_proposals and augmentation.transforms:
        raise UserError(
            "augmentations of your own do not move precomputed proposals: leave them out, or use a model with an RPN"
        )


def _collate_batch(
    samples: list[Sample] | LoadError,
    padded_sizes: Int64[ndarray, "N 2"],
    max_objects: int,
    num_proposals: int | None,
) -> Batch | LoadError:
    """Collate samples with few distinct numbers of ground truths: powers of two from 8 up to ``max_objects``."""
    if isinstance(samples, LoadError):
        return samples
    most = max(len(sample.labels) for sample in samples)
    rows = max(MIN_PADDED_OBJECTS, 1 << (most - 1).bit_length())
    if most <= max_objects:  # users' own transforms may add objects
        rows = min(max_objects, rows)
    height, width = padded_sizes[samples[0].index].tolist()
    return collate(samples, padded_size=(height, width), max_objects=rows, max_proposals=num_proposals)


def _max_objects(dataset: Dataset, max_source_images: int) -> int:
    """Return the maximum number of objects in an image that contains those of ``max_source_images``, rounded up."""
    most = max_source_images * max((len(image.labels) for image in dataset.images), default=0)
    return max(MIN_PADDED_OBJECTS, -(-most // 8) * 8)


def _leave_process_group(worker: int) -> None:
    """Deliver Ctrl-C and SIGTERM to the training process only, which then stops its workers in order."""
    os.setpgrp()
