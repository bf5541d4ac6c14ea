"""One image of a dataset, ready for a batch: decoded, resized and augmented."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy import ndarray
from torch import Tensor

from libradet.data.loading.augmentation import Augmentation
from libradet.data.loading.cache import ImageCache
from libradet.data.loading.colors import recolor
from libradet.data.loading.copy_paste import paste
from libradet.data.loading.mosaic import assemble, corner, quarters, tile_scale
from libradet.data.loading.transforms import Sample, Size, flip, load_image, resize_to, stored_size, target_size
from libradet.data.loading.windows import Window, any_window, drawn, look_through, scaled
from libradet.data.proposals.given import GivenProposals
from libradet.data.rasterize import EVERYTHING, decode_masks
from libradet.data.records import Dataset
from libradet.errors import UserError

_FLIP, _SCALE, _MOSAIC, _PASTE, _COLOR = range(1, 6)


class Key(NamedTuple):
    """Which image, and when: all that its augmentation depends on besides the seed."""

    epoch: int
    index: int


class Samples(torch.utils.data.Dataset):
    """A dataset by :class:`Key`.

    Each augmentation draws from a generator of its own, seeded with (seed, epoch, image, augmentation): switching
    one on or off leaves the others as they were.

    Scale jitter (Ghiasi et al., CVPR 2021): an image is resized by a random factor of its training size, and where
    it is larger than its canvas then, a random window of that size is cut out; so canvases are those without it.

    Args:
        size: (short, long) side, or "original".
        frames: height and width of each image's canvas.
        masks: give masks.
        reduced: large JPEG files may be decoded at a smaller size.
        cache: where pixels are kept.
    """

    def __init__(
        self,
        dataset: Dataset,
        size: Size,
        seed: int,
        augmentation: Augmentation,
        frames: Int64[ndarray, "N 2"],
        masks: bool,
        proposals: GivenProposals | None,
        reduced: bool,
        cache: ImageCache | None,
    ) -> None:
        self.dataset, self.size, self.seed, self.augmentation = dataset, size, seed, augmentation
        self.frames, self.masks, self.proposals, self.reduced, self.cache = frames, masks, proposals, reduced, cache
        self.sources = np.flatnonzero([not record.crowd.all() for record in dataset.images])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Sample | UserError:
        """The sample, or what is wrong with it: raised in a worker, it would arrive in wrappings."""
        try:
            return self._load(key)
        except UserError as error:
            return error

    def _load(self, key: Key) -> Sample:
        augment = self.augmentation
        mixes = augment.mixes_in(key.epoch)
        mosaic = self._willing(key, _MOSAIC, augment.mosaic if mixes else 0.0)
        pasting = self._willing(key, _PASTE, augment.copy_paste if mixes and len(self.sources) else 0.0)
        masks = self.masks or pasting is not None
        frame = self._frame(key.index)
        if mosaic is not None:
            sample = self._mosaic(key.index, frame, masks, mosaic)
        else:
            sample = self._jittered(key.index, frame, masks, self._chance(key, _SCALE))
        if pasting is not None:
            sample = self._pasted(sample, pasting)
        if not self.masks:
            sample = sample._replace(masks=None)
        if self._willing(key, _FLIP, augment.flip) is not None:
            sample = flip(sample)
        if augment.color_jitter:
            image = recolor(sample.image, augment.color_jitter, self._chance(key, _COLOR))
            sample = sample._replace(image=image)
        return sample

    def _chance(self, key: Key, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, key.epoch, key.index, purpose])

    def _willing(self, key: Key, purpose: int, probability: float) -> np.random.Generator | None:
        """What to draw from for an augmentation if it is this image's turn."""
        chance = self._chance(key, purpose)
        return chance if chance.random() < probability else None

    def _frame(self, index: int) -> tuple[int, int]:
        height, width = self.frames[index].tolist()
        return height, width

    def _target(self, index: int) -> tuple[int, int]:
        record = self.dataset.images[index]
        return target_size(record.height, record.width, self.size)

    def _jittered(self, index: int, frame: tuple[int, int], masks: bool, chance: np.random.Generator) -> Sample:
        """An image at a random scale, no larger than ``frame``; at its training size without scale jitter."""
        jitter, target = self.augmentation.scale_jitter, self._target(index)
        if jitter is None and target[0] <= frame[0] and target[1] <= frame[1]:
            return self._at(index, target, masks)
        size = target if jitter is None else scaled(*target, chance.uniform(*jitter))
        return self._at(index, size, masks, any_window(*size, frame, chance))

    def _mosaic(self, index: int, frame: tuple[int, int], masks: bool, chance: np.random.Generator) -> Sample:
        """The image and three others, in any order, each in its quarter of the canvas."""
        others = chance.integers(len(self.dataset), size=3).tolist()
        where = quarters(frame, chance)
        places = [where[i] for i in chance.permutation(len(where))]
        tiles = [self._tile(i, place, masks, chance) for i, place in zip([index, *others], places, strict=True)]
        corners = [corner(tile, place) for tile, place in zip(tiles, places, strict=True)]
        return assemble(tiles, corners, frame)

    def _tile(self, index: int, quarter: Window, masks: bool, chance: np.random.Generator) -> Sample:
        target = self._target(index)
        size = scaled(*target, tile_scale(*target, quarter, chance))
        return self._at(index, size, masks, any_window(*size, (quarter.height, quarter.width), chance))

    def _pasted(self, sample: Sample, chance: np.random.Generator) -> Sample:
        """The sample with objects of another image, which is flipped and resized by chances of its own."""
        height, width = sample.image.shape[1:]
        other = self._jittered(int(chance.choice(self.sources)), (height, width), True, chance)
        other = flip(other) if chance.random() < self.augmentation.flip else other
        rows, columns = other.image.shape[1:]
        place = int(chance.integers(height - rows + 1)), int(chance.integers(width - columns + 1))
        return paste(sample, assemble([other], [place], (height, width)), chance)

    def _at(self, index: int, size: tuple[int, int], masks: bool, window: Window | None = None) -> Sample:
        """An image resized to ``size``, or what is seen of it through a window."""
        record, (height, width) = self.dataset.images[index], size
        image = resize_to(self._pixels(index), height, width)
        scale_x, scale_y = width / record.width, height / record.height
        scales = torch.tensor([scale_x, scale_y, scale_x, scale_y])
        boxes, given = torch.from_numpy(record.boxes) * scales, None
        if self.proposals is not None:
            given = self.proposals.of(index, record.width, record.height) * scales
        labels, crowd = torch.from_numpy(record.labels), torch.from_numpy(record.crowd)
        sample = Sample(image, boxes, labels, crowd, (scale_x, scale_y), index, None, given)
        left = torch.ones(len(labels), dtype=torch.bool)
        if window is not None:
            sample, left = look_through(sample, window)
        if not masks:
            return sample
        part = EVERYTHING if window is None else window.part
        sample = sample._replace(masks=decode_masks(record, height, width, part, or_boxes=not self.masks)[left])
        # Of an object that bends around the window, the box may be in it and the object not.
        return sample if window is None else drawn(sample)

    def _pixels(self, index: int) -> UInt8[Tensor, "3 H W"]:
        kept = self.cache.get(index) if self.cache else None
        if kept is not None:
            return kept
        record = self.dataset.images[index]
        height, width = stored_size(record.height, record.width, self.size, self.augmentation.zoom)
        known = (record.height, record.width)
        pixels = load_image(record.path, record.upright, (height, width) if self.reduced else None, known)
        resized = resize_to(pixels, height, width)
        if self.cache:
            self.cache.put(index, resized)
        return resized
