"""Batches of the tiles of images, for inference: each image is opened once, and never is more than one in memory."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from libradet.data.batch import Batch
from libradet.data.batching import group_by_padded_size
from libradet.data.bit_depth import DEFAULT_BIT_DEPTH
from libradet.data.collate import collate, padded_size_of, unlabeled_sample
from libradet.data.records import Dataset
from libradet.data.transforms.resize import Size, target_size
from libradet.data.transforms.sample import Sample
from libradet.data.windows import WindowReader, open_windows
from libradet.geometry.tiles import Tiles, Window, count_tiles, tile_windows
from libradet.utils.prefetch import prefetch

PaddedSample = tuple[Sample, tuple[int, int]]


class TileBatches:
    """Batches of the tiles of a dataset's images, of one size as far as their number allows.

    Tiles of consecutive images share a batch if their padded sizes are equal. ``Batch.index`` is the number of a tile:
    those of the first image come first, row by row. Each process of a distributed job has whole images, at least one.

    Args:
        dataset: the images; ground truth is not used.
        tiles: size and overlap.
        size: (short, long) side to resize each tile to, or "original".
        batch_size: tiles per batch.
        size_divisible: padded sides are multiples of it.
        rank, world_size: of this process.
        bit_depth: of the values in 16-bit files.
        batch_invariant_padding: pad each tile to the smallest size that holds it.

    Attributes:
        num_tiles: of each image.
        first_tile: number of the first tile of each image.
    """

    def __init__(
        self,
        dataset: Dataset,
        tiles: Tiles,
        *,
        size: Size,
        batch_size: int,
        size_divisible: int,
        rank: int = 0,
        world_size: int = 1,
        bit_depth: int = DEFAULT_BIT_DEPTH,
        batch_invariant_padding: bool = False,
    ) -> None:
        self.dataset, self.tiles, self.size, self.batch_size = dataset, tiles, size, batch_size
        self.bit_depth = bit_depth
        images = dataset.images
        self.num_tiles = np.array([count_tiles(p.height, p.width, tiles) for p in images], np.int64)
        self.first_tile = np.cumsum(self.num_tiles) - self.num_tiles
        sides = [(min(p.height, tiles.size), min(p.width, tiles.size)) for p in images]
        shapes = np.array([target_size(*side, size) for side in sides], np.int64).reshape(-1, 2)
        self.padded_sizes, self.group_ids = group_by_padded_size(shapes, size_divisible, batch_invariant_padding)
        rows = np.arange(len(images))
        own = rows[rank::world_size]
        self.image_rows = own if len(own) else rows[-1:]

    def __len__(self) -> int:
        """Number of batches of this process."""
        own = self.image_rows
        counts = np.bincount(self.group_ids[own], self.num_tiles[own], minlength=1).astype(int)
        return sum(-(-count // self.batch_size) for count in counts.tolist())

    def __iter__(self) -> Iterator[Batch]:
        return prefetch(batch_samples(self._samples(), self.batch_size))

    def image_of(self, tile: int) -> int:
        """Return the row of the image that a tile belongs to."""
        return int(np.searchsorted(self.first_tile, tile, side="right")) - 1

    def windows(self, row: int) -> list[Window]:
        """Return the tiles of an image."""
        image = self.dataset.images[row]
        return tile_windows(image.height, image.width, self.tiles)

    def _samples(self) -> Iterator[PaddedSample]:
        for row in self.image_rows.tolist():
            image = self.dataset.images[row]
            padded_size = self.padded_sizes[self.group_ids[row]]
            expected_size = image.height, image.width
            with open_windows(image.path, image.apply_exif, expected_size, self.bit_depth) as reader:
                for number, window in enumerate(self.windows(row), start=int(self.first_tile[row])):
                    yield unlabeled_sample(reader.read(window), self.size, number), padded_size


def batch_samples(samples: Iterable[PaddedSample], batch_size: int) -> Iterator[Batch]:
    """Yield batches of ``batch_size`` samples of one padded size; the rest of each size at the end."""
    waiting: dict[tuple[int, int], list[Sample]] = defaultdict(list)
    for sample, padded_size in samples:
        group = waiting[padded_size]
        group.append(sample)
        if len(group) == batch_size:
            yield collate(group, padded_size=padded_size)
            group.clear()
    for padded_size, group in waiting.items():
        if group:
            yield collate(group, padded_size=padded_size)


def batches_of_image(
    reader: WindowReader, windows: Sequence[Window], size: Size, size_divisible: int, batch_size: int
) -> Iterator[Batch]:
    """Yield the tiles of one image in batches; ``Batch.index`` is the number of the tile."""

    def samples() -> Iterator[PaddedSample]:
        for number, window in enumerate(windows):
            sample = unlabeled_sample(reader.read(window), size, number)
            yield sample, padded_size_of(sample, size_divisible)

    return prefetch(batch_samples(samples(), batch_size))
