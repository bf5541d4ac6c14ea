"""LightningDataModule for training a detector."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from libradet.data.batch import Batch
from libradet.data.bit_depth import DEFAULT_BIT_DEPTH
from libradet.data.cache import CacheKind, ImageCache, cache_bytes
from libradet.data.dataset import load_sample
from libradet.data.formats.detect import choose_split, list_splits
from libradet.data.loader import make_loader
from libradet.data.proposals.precomputed import PrecomputedProposals
from libradet.data.read import read
from libradet.data.records import Dataset
from libradet.data.sampler import GroupedBatchSampler
from libradet.data.tile_batches import TileBatches
from libradet.data.tiling import TileCounts, tile_dataset
from libradet.data.transforms.augmentation import HFLIP_ONLY, Augmentation
from libradet.data.transforms.custom import check_transforms
from libradet.data.transforms.resize import Size, check_size
from libradet.data.validation.report import Report, merge
from libradet.errors import UserError
from libradet.evaluation.classes import match_classes
from libradet.geometry.tiles import MIN_AREA_RATIO, TilesLike, as_tiles
from libradet.utils.arguments import check_arguments
from libradet.utils.ranges import NonNegativeInt, PositiveInt, Seed, UnitInterval
from libradet.utils.workers import default_num_workers


class DetectorData(pl.LightningDataModule):
    """Training and validation batches; the order of an epoch is a function of seed and epoch.

    A Trainer that resumes within an epoch gets the remaining batches of it.

    Args:
        train_set: images to train on, or the folder of a dataset in any supported format.
        val_set: images to validate on; if ``train_set`` is a folder and this is None, those of its split "val".
        size: (short, long) side to resize to.
        batch_size: images per process.
        size_divisible: padded sides are multiples of it: ``Detector.size_divisible``.
        num_workers: data loading processes per training process; from the number of cores if None.
        seed: of order and augmentation.
        augmentation: of training images.
        masks: load masks to train on.
        train_proposals, val_proposals: precomputed proposals, for a detector without RPN.
        cache: keep decoded and resized images in shared memory ("ram"), or in a file in the Trainer's
            ``default_root_dir`` that is deleted at the end ("disk"). Batches are the same. Each training process has
            its own cache.
        batch_invariant_padding: of validation images, see :class:`libradet.models.config.ImageConfig`.
        bit_depth: of the values in 16-bit files: ``Detector.bit_depth``.
        repeat_factor_thresh: images with rarer classes occur several times in an epoch, see
            :mod:`libradet.data.repeat_factors`.
        tiles: size and overlap of tiles to train and validate on, such as (640, 0.2).
        tile_min_area_ratio: see :func:`libradet.data.tiling.tile_dataset`.
        tile_empty_fraction: fraction of the tiles without objects in each epoch.

    Attributes:
        augmentation: may be set until training starts.
        train_set: with ``tiles``, one record for each tile.
        tile_counts: how the training images were cut; None without ``tiles``.
        val_tiles: validation batches of this process, once they are created; None without ``tiles``.

    Raises:
        UserError: the data cannot be used for training.
    """

    @check_arguments
    def __init__(
        self,
        train_set: Dataset | str | Path,
        val_set: Dataset | None = None,
        *,
        size: Size = (800, 1333),
        batch_size: PositiveInt = 4,
        size_divisible: PositiveInt = 128,
        num_workers: NonNegativeInt | None = None,
        seed: Seed = 0,
        augmentation: Augmentation = HFLIP_ONLY,
        masks: bool = False,
        train_proposals: PrecomputedProposals | None = None,
        val_proposals: PrecomputedProposals | None = None,
        cache: CacheKind | None = None,
        batch_invariant_padding: bool = False,
        repeat_factor_thresh: UnitInterval = 0.0,
        bit_depth: int = DEFAULT_BIT_DEPTH,
        tiles: TilesLike | None = None,
        tile_min_area_ratio: UnitInterval = MIN_AREA_RATIO,
        tile_empty_fraction: UnitInterval = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(train_set, Dataset):
            train_masks = augmentation.copy_paste_prob > 0
            train_set, own_val_set, _ = read_splits(Path(train_set), masks=masks, train_masks=train_masks)
            val_set = val_set or own_val_set
        self.tiles = None if tiles is None else as_tiles(tiles)
        self.tile_counts: TileCounts | None = None
        self.val_tiles: TileBatches | None = None
        if self.tiles is not None:
            keep_empty = tile_empty_fraction > 0
            train_set, self.tile_counts = tile_dataset(train_set, self.tiles, tile_min_area_ratio, keep_empty)
            _require_objects(train_set, tile_min_area_ratio)
        self.train_set, self.val_set = train_set, val_set
        self.train_proposals, self.val_proposals = train_proposals, val_proposals
        self.masks = masks
        check_size(size)
        self.batch_size, self.size = batch_size, size
        self.cache: CacheKind | None = cache
        self.augmentation = augmentation
        self._caches: dict[bool, ImageCache] = {}
        self._num_workers = num_workers
        self._batch_invariant_padding = batch_invariant_padding
        self._make_loader = partial(
            make_loader,
            size=size,
            batch_size=batch_size,
            size_divisible=size_divisible,
            seed=seed,
            repeat_factor_thresh=repeat_factor_thresh,
            empty_fraction=tile_empty_fraction if self.tiles else 1.0,
            bit_depth=bit_depth,
        )
        self._size_divisible, self._bit_depth = size_divisible, bit_depth
        self._train_sampler: GroupedBatchSampler | None = None

    @property
    def class_names(self) -> list[str]:
        """Names of labels 0..C-1."""
        return self.train_set.class_names

    @property
    def batches_per_epoch(self) -> int:
        """Training batches of each process per epoch."""
        return self.count_batches(self.trainer.world_size if self.trainer else 1)

    @property
    def cache_bytes(self) -> int:
        """Size of the cache of one process."""
        # Tiles of validation images are read once per validation, each image decoded once.
        val_sets = [self.val_set] if self.val_set is not None and self.tiles is None else []
        return cache_bytes(val_sets, self.size) + cache_bytes([self.train_set], self.size, self.augmentation.max_scale)

    def count_batches(self, world_size: int) -> int:
        """Return the training batches of each of ``world_size`` processes per epoch."""
        return len(self._loader(0, world_size, training=True, num_workers=0))

    def check_transforms(self, transforms: Sequence[Callable[..., Any]]) -> None:
        """Check users' own transforms on the first training image with objects.

        Raises:
            UserError: see :func:`libradet.data.transforms.custom.check_transforms`.
        """
        if not transforms:
            return
        images = self.train_set.images
        index = next((i for i, image in enumerate(images) if len(image.labels)), 0)
        sample = load_sample(self.train_set, index, self.size, self.masks)
        check_transforms(sample, transforms, len(self.class_names), images[index].path.name)

    def train_dataloader(self) -> DataLoader:
        """Return the training batches, from the progress of the run on."""
        trainer = self.trainer
        assert trainer is not None
        cache = self._get_cache(trainer, training=True)
        loader = self._loader(trainer.global_rank, trainer.world_size, training=True, cache=cache)
        assert isinstance(loader.batch_sampler, GroupedBatchSampler)
        self._train_sampler = loader.batch_sampler
        epoch, start = divmod(getattr(trainer.lightning_module, "batches_done", 0), len(loader))
        self._train_sampler.set_epoch(epoch)
        self._train_sampler.set_start(start)
        return loader

    def val_dataloader(self) -> DataLoader | TileBatches | list:
        """Return this process's share of the validation images or their tiles; nothing without validation images."""
        if self.val_set is None:
            return []
        trainer = self.trainer
        assert trainer is not None
        if self.tiles is not None:
            self.val_tiles = TileBatches(
                self.val_set,
                self.tiles,
                size=self.size,
                batch_size=self.batch_size,
                size_divisible=self._size_divisible,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
                bit_depth=self._bit_depth,
                batch_invariant_padding=self._batch_invariant_padding,
            )
            return self.val_tiles
        cache = self._get_cache(trainer, training=False)
        return self._loader(trainer.global_rank, trainer.world_size, training=False, cache=cache)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle for another epoch and start at its first batch; no effect in the current epoch."""
        assert self._train_sampler is not None
        self._train_sampler.set_epoch(epoch)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Copy in the background; ``index`` stays on the CPU, so that reading it does not wait for the device."""
        return batch.to(device, non_blocking=True)._replace(index=batch.index)

    def _get_cache(self, trainer: pl.Trainer, training: bool) -> ImageCache | None:
        if self.cache is None:
            return None
        if training not in self._caches:
            dataset, file = self.train_set if training else self.val_set, None
            assert dataset is not None
            if self.cache == "disk":
                folder = Path(trainer.default_root_dir)
                folder.mkdir(parents=True, exist_ok=True)
                file = folder / f"images-{'train' if training else 'val'}-{trainer.global_rank}.cache"
            max_scale = self.augmentation.max_scale if training else None
            self._caches[training] = ImageCache(dataset, self.size, file, max_scale)
        return self._caches[training]

    def _loader(
        self,
        rank: int,
        world_size: int,
        training: bool,
        num_workers: int | None = None,
        cache: ImageCache | None = None,
    ) -> DataLoader:
        if num_workers is None:
            num_workers = self._num_workers
        if num_workers is None:
            num_workers = default_num_workers(8, 1, self.trainer.num_devices if self.trainer else 1)
        dataset = self.train_set if training else self.val_set
        assert dataset is not None
        return self._make_loader(
            dataset,
            training=training,
            augmentation=self.augmentation,
            num_workers=num_workers,
            masks=training and self.masks,
            proposals=self.train_proposals if training else self.val_proposals,
            rank=rank,
            world_size=world_size,
            cache=cache,
            batch_invariant_padding=self._batch_invariant_padding and not training,
        )


def _require_objects(tiled: Dataset, min_area_ratio: float) -> None:
    if not any(image.has_objects for image in tiled.images):
        raise UserError(
            f"{tiled.root}, {tiled.split}: no tile holds an object to {min_area_ratio:g} of its area; use larger tiles "
            "or a lower tile_min_area_ratio"
        )


def read_splits(
    data: Path, train_split: str = "train", val_split: str = "val", masks: bool = False, train_masks: bool = False
) -> tuple[Dataset, Dataset | None, Report]:
    """Return training images, validation images (None without a validation split) and the validation report.

    Args:
        masks: keep segmentations.
        train_masks: keep those of the training images.

    Raises:
        UserError: the data cannot be used for training, or a requested split is missing.
    """
    splits = list_splits(data)
    train_name = choose_split(splits, train_split, data)
    try:
        val_name = choose_split(splits, val_split, data)
    except UserError:
        if val_split != "val":
            raise
        val_name = train_name
    train_set, report = read(data, train_name, masks=masks or train_masks)
    # The training split is used for validation only if that was requested.
    if val_name == train_name and val_split != train_name:
        report.notes.append("no validation split: nothing is validated, the latest weights are kept as the best")
        return train_set, None, report
    val_set, val_report = read(data, val_name, training=False, masks=masks)
    match_classes(train_set.class_names, val_set.class_names)
    return train_set, val_set, merge({train_name: report, val_name: val_report})
