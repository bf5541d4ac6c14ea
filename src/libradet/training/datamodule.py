"""A dataset as Lightning trains on it."""

import os
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from libradet.data.batch import Batch
from libradet.data.checks.report import Report, merge
from libradet.data.layouts.formats import choose_split, find_layout
from libradet.data.loading.augmentation import FLIPPED, Augmentation
from libradet.data.loading.cache import ImageCache, Kind, cache_bytes
from libradet.data.loading.loader import BatchSampler, make_loader
from libradet.data.loading.transforms import Size
from libradet.data.proposals.given import GivenProposals
from libradet.data.read import read
from libradet.data.records import Dataset
from libradet.errors import UserError
from libradet.evaluation.classes import match_classes


class DetectorData(pl.LightningDataModule):
    """Training and validation batches; the order of an epoch is a function of seed and epoch.

    A Trainer that resumes in the middle of an epoch gets the batches that are left of it.

    Args:
        train_set: images to train on, or the folder of a dataset, in any layout that is recognized.
        val_set: images to measure on; if ``train_set`` is a folder and this is None, those of its split "val".
        size: (short, long) side to resize to.
        batch_size: images per process.
        divisor: canvas sides are multiples of it: ``Detector.divisor``.
        workers: processes that load images, per training process; by the number of cores if None.
        seed: of order and augmentation.
        augmentation: of images in training.
        masks: give masks to train on.
        train_proposals, val_proposals: of the images, for a detector without rpn.
        cache: keep decoded and resized images in shared memory ("ram"), or in a file in the Trainer's
            ``default_root_dir`` that is deleted at the end ("disk"). Batches are the same. Each training
            process has its own.
        own_canvas: of validation images, see :class:`libradet.models.config.ImageConfig`.

    Attributes:
        images: rows of those in the latest batch.
        augmentation: may be set until training starts.

    Raises:
        UserError: the data cannot be trained on.
    """

    def __init__(
        self,
        train_set: Dataset | str | Path,
        val_set: Dataset | None = None,
        *,
        size: Size = (800, 1333),
        batch_size: int = 4,
        divisor: int = 128,
        workers: int | None = None,
        seed: int = 0,
        augmentation: Augmentation = FLIPPED,
        masks: bool = False,
        train_proposals: GivenProposals | None = None,
        val_proposals: GivenProposals | None = None,
        cache: Kind | None = None,
        own_canvas: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(train_set, Dataset):
            train_set, found, _ = read_splits(Path(train_set), masks=masks, train_masks=augmentation.copy_paste > 0)
            val_set = val_set or found
        self.train_set, self.val_set = train_set, val_set
        self.train_proposals, self.val_proposals = train_proposals, val_proposals
        self.masks = masks
        self.batch_size, self.size = batch_size, size
        self.cache: Kind | None = cache
        self._caches: dict[bool, ImageCache] = {}
        self._workers = workers
        self.augmentation = augmentation
        self._own_canvas = own_canvas
        self._load = partial(make_loader, size=size, batch_size=batch_size, divisor=divisor, seed=seed)
        self.images: list[int] = []
        self._train_sampler: BatchSampler | None = None

    @property
    def class_names(self) -> list[str]:
        """Names of labels 0..C-1."""
        return self.train_set.class_names

    @property
    def batches_per_epoch(self) -> int:
        """Of each process."""
        return self.batches_of(self.trainer.world_size if self.trainer else 1)

    @property
    def cache_bytes(self) -> int:
        """What the cache of one process takes."""
        measured = 0 if self.val_set is None else cache_bytes([self.val_set], self.size)
        return measured + cache_bytes([self.train_set], self.size, self.augmentation.zoom)

    def batches_of(self, processes: int) -> int:
        """Training batches of each of so many processes in one epoch."""
        return len(self._loader(0, processes, training=True, workers=0))

    def train_dataloader(self) -> DataLoader:
        """The loader, at the batch where the run stands."""
        trainer = self.trainer
        assert trainer is not None
        cache = self._cached(trainer, training=True)
        loader = self._loader(trainer.global_rank, trainer.world_size, training=True, cache=cache)
        assert isinstance(loader.batch_sampler, BatchSampler)
        self._train_sampler = loader.batch_sampler
        epoch, start = divmod(getattr(trainer.lightning_module, "batches_done", 0), len(loader))
        self._train_sampler.set_epoch(epoch)
        self._train_sampler.set_start(start)
        return loader

    def val_dataloader(self) -> DataLoader | list:
        """This process's share of the validation images; nothing where there are none."""
        if self.val_set is None:
            return []
        trainer = self.trainer
        assert trainer is not None
        cache = self._cached(trainer, training=False)
        return self._loader(trainer.global_rank, trainer.world_size, training=False, cache=cache)

    def set_epoch(self, epoch: int) -> None:
        """The order of another epoch, from its first batch; nothing changes in the epoch that it is."""
        assert self._train_sampler is not None
        self._train_sampler.set_epoch(epoch)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Note which images these are while that costs no waiting for a device."""
        self.images = [] if batch.index is None else batch.index.tolist()
        return batch

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Copies run beside the computation where the loader pins its memory."""
        return batch.to(device, non_blocking=True)

    def _cached(self, trainer: pl.Trainer, training: bool) -> ImageCache | None:
        if self.cache is None:
            return None
        if training not in self._caches:
            dataset, file = self.train_set if training else self.val_set, None
            assert dataset is not None
            if self.cache == "disk":
                folder = Path(trainer.default_root_dir)
                folder.mkdir(parents=True, exist_ok=True)
                file = folder / f"images-{'train' if training else 'val'}-{trainer.global_rank}.cache"
            zoom = self.augmentation.zoom if training else None
            self._caches[training] = ImageCache(dataset, self.size, file, zoom)
        return self._caches[training]

    def _loader(
        self,
        rank: int,
        processes: int,
        training: bool,
        workers: int | None = None,
        cache: ImageCache | None = None,
    ) -> DataLoader:
        asked = self._workers if workers is None else workers
        dataset = self.train_set if training else self.val_set
        assert dataset is not None
        return self._load(
            dataset,
            training=training,
            augmentation=self.augmentation,
            workers=_default_workers(self.trainer) if asked is None else asked,
            masks=training and self.masks,
            proposals=self.train_proposals if training else self.val_proposals,
            rank=rank,
            world_size=processes,
            cache=cache,
            own_canvas=self._own_canvas and not training,
        )


def _default_workers(trainer: pl.Trainer | None) -> int:
    processes = trainer.num_devices if trainer else 1
    return min(8, max(1, (os.cpu_count() or 1) // (2 * processes)))


def read_splits(
    data: Path, train_split: str = "train", val_split: str = "val", masks: bool = False, train_masks: bool = False
) -> tuple[Dataset, Dataset | None, Report]:
    """Images to train on, those to measure on (None if there are none), and what the checks found.

    Args:
        masks: keep segmentations.
        train_masks: keep those of the images to train on.

    Raises:
        UserError: the data cannot be trained on, or a split that was asked for is missing.
    """
    layout = find_layout(data)
    train_name = choose_split(layout, train_split, data)
    try:
        val_name = choose_split(layout, val_split, data)
    except UserError:
        if val_split != "val":
            raise
        val_name = train_name
    train_set, report = read(data, train_name, masks=masks or train_masks)
    # One split for everything serves to measure on only if that is what was asked for.
    if val_name == train_name and val_split != train_name:
        report.notes.append("no split to measure on: nothing is measured, the latest weights are kept as the best")
        return train_set, None, report
    val_set, val_report = read(data, val_name, training=False, masks=masks)
    match_classes(train_set.class_names, val_set.class_names)
    return train_set, val_set, merge({train_name: report, val_name: val_report})
