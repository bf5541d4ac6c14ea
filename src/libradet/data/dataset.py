"""Map-style dataset: decodes, resizes and augments one image at a time."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from libradet.data.bit_depth import DEFAULT_BIT_DEPTH
from libradet.data.cache import ImageCache
from libradet.data.image_io import read_image
from libradet.data.masks import FULL_IMAGE, decode_masks
from libradet.data.proposals.precomputed import PrecomputedProposals
from libradet.data.records import Dataset, ImageRecord
from libradet.data.transforms.augmentation import NO_AUGMENTATION, Augmentation
from libradet.data.transforms.color import color_jitter
from libradet.data.transforms.copy_paste import copy_paste
from libradet.data.transforms.crop import crop_sample, random_crop_box
from libradet.data.transforms.custom import apply_transforms
from libradet.data.transforms.fit import shrink_to_fit
from libradet.data.transforms.flip import hflip, vflip
from libradet.data.transforms.mixup import mixup
from libradet.data.transforms.mosaic import build_mosaic, mosaic_cells, paste_offset, sample_tile_scale
from libradet.data.transforms.noise import gaussian_blur, gaussian_noise
from libradet.data.transforms.resize import Size, cached_size, resize_to, scale_size, target_size
from libradet.data.transforms.rotate import rotate90
from libradet.data.transforms.sample import Sample, remove_empty_masks
from libradet.data.windows import open_windows
from libradet.geometry.tiles import Window

# Streams of random numbers: part of the seed of each augmentation, so never renumber them.
_HFLIP, _SCALE, _MOSAIC, _COPY_PASTE, _COLOR, _VFLIP, _ROTATE, _MIXUP, _BLUR, _NOISE, _CUSTOM = range(1, 12)


class SampleIndex(NamedTuple):
    """Index of a sample: together with the seed, all that its augmentation depends on.

    ``repeat`` numbers the occurrences of an image in an epoch, which are augmented differently.
    """

    epoch: int
    index: int
    repeat: int = 0


class DetectionDataset(torch.utils.data.Dataset):
    """Augmented samples of a dataset, indexed by :class:`SampleIndex`.

    Each augmentation draws from its own generator, seeded with (seed, epoch, image, augmentation): switching
    one on or off does not change the draws of the others.

    Scale jitter (Ghiasi et al., CVPR 2021): an image is resized by a random factor of its training size, and where
    it then exceeds its padded size, a random crop of that size is cut out; so padded sizes are those without jitter.

    Args:
        dataset: images and ground truth.
        size: (short, long) side, or "original".
        seed: of the augmentation.
        augmentation: its settings.
        padded_sizes: height and width of each image after padding.
        masks: return masks.
        proposals: precomputed proposals to return.
        reduced: large JPEG files may be decoded at a smaller size.
        cache: where decoded pixels are kept.
        bit_depth: of the values in 16-bit files.
        frequencies: how often each image is drawn for mosaics and mixup, relative to the others; equally often if None.
    """

    def __init__(
        self,
        dataset: Dataset,
        size: Size,
        seed: int,
        augmentation: Augmentation,
        padded_sizes: Int64[ndarray, "N 2"],
        masks: bool,
        proposals: PrecomputedProposals | None,
        reduced: bool,
        cache: ImageCache | None,
        bit_depth: int = DEFAULT_BIT_DEPTH,
        frequencies: Float64[ndarray, " N"] | None = None,
    ) -> None:
        self.dataset, self.size, self.seed, self.augmentation = dataset, size, seed, augmentation
        self.padded_sizes, self.masks, self.proposals = padded_sizes, masks, proposals
        self.reduced, self.cache, self.bit_depth = reduced, cache, bit_depth
        self.paste_sources = np.flatnonzero([image.has_objects for image in dataset.images])
        self._cumulated = None if frequencies is None else np.cumsum(frequencies)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleIndex) -> Sample:
        """Load and augment a sample. Raises UserError if its file cannot be read."""
        augment = self.augmentation
        mixing = augment.uses_mixing(key.epoch)
        mosaic_rng = self._draw(key, _MOSAIC, augment.mosaic_prob if mixing else 0.0)
        can_paste = mixing and len(self.paste_sources) > 0
        paste_rng = self._draw(key, _COPY_PASTE, augment.copy_paste_prob if can_paste else 0.0)
        masks = self.masks or paste_rng is not None
        size = self._padded_size(key.index)
        if mosaic_rng is not None:
            sample = self._load_mosaic(key.index, size, masks, mosaic_rng)
        else:
            sample = self._load_jittered(key.index, size, masks, self._rng(key, _SCALE))
        if paste_rng is not None:
            sample = self._paste_objects(sample, paste_rng)
        if not self.masks:
            sample = sample._replace(masks=None)
        mixup_rng = self._draw(key, _MIXUP, augment.mixup_prob if mixing else 0.0)
        if mixup_rng is not None:
            sample = self._mix(sample, mixup_rng)
        sample = self._flip_and_rotate(sample, key)
        sample = sample._replace(image=self._change_pixels(sample.image, key))
        if augment.transforms:
            seed, file = int(self._rng(key, _CUSTOM).integers(2**32)), self.dataset.images[key.index].path.name
            sample = apply_transforms(sample, augment.transforms, seed, len(self.dataset.class_names), file)
        return shrink_to_fit(sample, size)

    def _flip_and_rotate(self, sample: Sample, key: SampleIndex) -> Sample:
        augment = self.augmentation
        if self._draw(key, _HFLIP, augment.hflip_prob) is not None:
            sample = hflip(sample)
        if self._draw(key, _VFLIP, augment.vflip_prob) is not None:
            sample = vflip(sample)
        rotation_rng = self._draw(key, _ROTATE, augment.rotate90_prob)
        return sample if rotation_rng is None else rotate90(sample, int(rotation_rng.integers(1, 4)))

    def _change_pixels(self, image: UInt8[Tensor, "3 H W"], key: SampleIndex) -> UInt8[Tensor, "3 H W"]:
        augment = self.augmentation
        if augment.color_jitter:
            image = color_jitter(image, augment.color_jitter, self._rng(key, _COLOR))
        if augment.gaussian_blur:
            image = gaussian_blur(image, augment.gaussian_blur, self._rng(key, _BLUR))
        if augment.gaussian_noise:
            image = gaussian_noise(image, augment.gaussian_noise, self._rng(key, _NOISE))
        return image

    def _rng(self, key: SampleIndex, stream: int) -> np.random.Generator:
        repeat = [key.repeat] if key.repeat else []
        return np.random.default_rng([self.seed, key.epoch, key.index, stream, *repeat])

    def _draw(self, key: SampleIndex, stream: int, probability: float) -> np.random.Generator | None:
        """Return the generator of an augmentation with this probability, else None."""
        rng = self._rng(key, stream)
        return rng if rng.random() < probability else None

    def _draw_images(self, count: int, rng: np.random.Generator) -> list[int]:
        if self._cumulated is None:
            return rng.integers(len(self.dataset), size=count).tolist()
        points = rng.uniform(high=self._cumulated[-1], size=count)
        return np.searchsorted(self._cumulated, points, side="right").clip(max=len(self.dataset) - 1).tolist()

    def _padded_size(self, index: int) -> tuple[int, int]:
        height, width = self.padded_sizes[index].tolist()
        return height, width

    def _target_size(self, index: int) -> tuple[int, int]:
        image = self.dataset.images[index]
        return target_size(image.height, image.width, self.size)

    def _load_jittered(self, index: int, max_size: tuple[int, int], masks: bool, rng: np.random.Generator) -> Sample:
        """Load an image at a random scale, at most ``max_size``; at its training size without scale jitter."""
        jitter, target = self.augmentation.scale_jitter, self._target_size(index)
        if jitter is None and target[0] <= max_size[0] and target[1] <= max_size[1]:
            return self._load(index, target, masks)
        size = target if jitter is None else scale_size(*target, rng.uniform(*jitter))
        return self._load(index, size, masks, random_crop_box(*size, max_size, rng))

    def _load_mosaic(self, index: int, size: tuple[int, int], masks: bool, rng: np.random.Generator) -> Sample:
        """Load the image and three others, in random order, each in its cell of a mosaic."""
        others = self._draw_images(3, rng)
        cells = mosaic_cells(size, rng)
        cells = [cells[i] for i in rng.permutation(len(cells))]
        tiles = [self._load_tile(i, cell, masks, rng) for i, cell in zip([index, *others], cells, strict=True)]
        offsets = [paste_offset(tile, cell) for tile, cell in zip(tiles, cells, strict=True)]
        return build_mosaic(tiles, offsets, size)

    def _load_tile(self, index: int, cell: Window, masks: bool, rng: np.random.Generator) -> Sample:
        target = self._target_size(index)
        size = scale_size(*target, sample_tile_scale(*target, cell, rng))
        return self._load(index, size, masks, random_crop_box(*size, (cell.height, cell.width), rng))

    def _paste_objects(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Paste objects of another image, which is flipped and resized by draws of its own."""
        height, width = sample.image.shape[1:]
        source = self._load_jittered(int(rng.choice(self.paste_sources)), (height, width), True, rng)
        source = hflip(source) if rng.random() < self.augmentation.hflip_prob else source
        rows, columns = source.image.shape[1:]
        offset = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        return copy_paste(sample, build_mosaic([source], [offset], (height, width)), rng)

    def _mix(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Average with another image, which is flipped, resized and placed by draws of its own."""
        height, width = sample.image.shape[1:]
        source = self._load_jittered(self._draw_images(1, rng)[0], (height, width), self.masks, rng)
        source = hflip(source) if rng.random() < self.augmentation.hflip_prob else source
        rows, columns = source.image.shape[1:]
        return mixup(sample, source, (int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))))

    def _load(self, index: int, size: tuple[int, int], masks: bool, crop: Window | None = None) -> Sample:
        """Load an image resized to ``size``, or a crop of it."""
        image, (height, width) = self.dataset.images[index], size
        pixels = resize_to(self._pixels(index), height, width)
        scale_x, scale_y = width / image.width, height / image.height
        scales = torch.tensor([scale_x, scale_y, scale_x, scale_y])
        boxes, proposals = torch.from_numpy(image.boxes) * scales, None
        if self.proposals is not None:
            proposals = self.proposals.boxes_of(index, image.width, image.height) * scales
        labels, crowd = torch.from_numpy(image.labels), torch.from_numpy(image.crowd)
        sample = Sample(pixels, boxes, labels, crowd, (scale_x, scale_y), index, None, proposals)
        keep = torch.ones(len(labels), dtype=torch.bool)
        if crop is not None:
            sample, keep = crop_sample(sample, crop)
        if not masks:
            return sample
        region = FULL_IMAGE if crop is None else crop.slices
        sample = sample._replace(masks=decode_masks(image, height, width, region, use_boxes=not self.masks)[keep])
        # The box of a concave object may be inside the crop and the object not.
        return sample if crop is None else remove_empty_masks(sample)

    def _pixels(self, index: int) -> UInt8[Tensor, "3 H W"]:
        cached = self.cache.get(index) if self.cache else None
        if cached is not None:
            return cached
        image = self.dataset.images[index]
        if image.tile is not None:
            return self._tile_pixels(index, image)
        height, width = self._cached_size(image)
        target = (height, width) if self.reduced else None
        expected = (image.height, image.width)
        return self._store(index, read_image(image.path, image.apply_exif, target, expected, self.bit_depth))

    def _tile_pixels(self, index: int, image: ImageRecord) -> UInt8[Tensor, "3 H W"]:
        assert image.tile is not None
        window, expected = image.tile.window, (image.tile.image_height, image.tile.image_width)
        with open_windows(image.path, image.apply_exif, expected, self.bit_depth) as reader:
            if self.cache and reader.is_decoded:  # then all tiles of the image are cached, to decode it once
                for row in self._rows_of_file(index):
                    other = self.dataset.images[row].tile
                    if row != index and other is not None and self.cache.get(row) is None:
                        self._store(row, reader.read(other.window))
            return self._store(index, reader.read(window))

    def _rows_of_file(self, index: int) -> range:
        """Return the rows around ``index`` that describe parts of the same file."""
        images, path = self.dataset.images, self.dataset.images[index].path
        start, stop = index, index + 1
        while start > 0 and images[start - 1].path == path:
            start -= 1
        while stop < len(images) and images[stop].path == path:
            stop += 1
        return range(start, stop)

    def _cached_size(self, image: ImageRecord) -> tuple[int, int]:
        return cached_size(image.height, image.width, self.size, self.augmentation.max_scale)

    def _store(self, index: int, pixels: UInt8[Tensor, "3 H W"]) -> UInt8[Tensor, "3 h w"]:
        """Return pixels resized for training, and keep them in the cache, if there is one."""
        resized = resize_to(pixels, *self._cached_size(self.dataset.images[index]))
        if self.cache:
            self.cache.put(index, resized)
        return resized


def load_sample(dataset: Dataset, index: int, size: Size, masks: bool = False) -> Sample:
    """Load one image without augmentation. Raises UserError if its file cannot be read."""
    image = dataset.images[index]
    sizes = np.array([target_size(image.height, image.width, size)], np.int64)
    single = replace(dataset, images=[image])
    return DetectionDataset(single, size, 0, NO_AUGMENTATION, sizes, masks, None, False, None)[SampleIndex(0, 0)]
