"""Augmentation settings. Does not import torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images; the result is a function of (seed, epoch, image).

    Attributes:
        hflip_prob: probability of a horizontal flip.
        scale_jitter: smallest and largest factor by which images are resized beyond their training size; see
            :class:`libradet.data.dataset.DetectionDataset`.
        mosaic_prob: probability of a mosaic of four images (``mosaic.py``).
        copy_paste_prob: probability that objects of another image are pasted (``copy_paste.py``).
        color_jitter: strength of color jitter (``color.py``).
        mixing_epochs: number of epochs after which mosaic, copy-paste and mixup stop; None for never.
        vflip_prob: probability of a vertical flip.
        rotate90_prob: probability of a rotation by 90, 180 or 270 degrees, each equally likely.
        mixup_prob: probability that an image is averaged with another one (``mixup.py``).
        gaussian_blur: largest standard deviation, in pixels, of a Gaussian blur (``noise.py``).
        gaussian_noise: largest standard deviation of Gaussian noise, as a fraction of white.
        transforms: users' own ones, applied last and in this order (``custom.py``).
    """

    hflip_prob: float = 0.5
    scale_jitter: tuple[float, float] | None = None
    mosaic_prob: float = 0.0
    copy_paste_prob: float = 0.0
    color_jitter: float = 0.0
    mixing_epochs: int | None = None
    vflip_prob: float = 0.0
    rotate90_prob: float = 0.0
    mixup_prob: float = 0.0
    gaussian_blur: float = 0.0
    gaussian_noise: float = 0.0
    transforms: tuple[Callable[..., Any], ...] = ()

    @property
    def max_scale(self) -> float | None:
        """Largest factor by which images may exceed their training size; None without scale jitter."""
        return None if self.scale_jitter is None else max(1.0, self.scale_jitter[1])

    @property
    def is_mixed(self) -> bool:
        """Whether an image may contain parts of other images."""
        return self.mosaic_prob > 0 or self.copy_paste_prob > 0 or self.mixup_prob > 0

    def uses_mixing(self, epoch: int) -> bool:
        """Return whether an image may contain parts of other images in this epoch."""
        return self.is_mixed and (self.mixing_epochs is None or epoch < self.mixing_epochs)

    @property
    def max_source_images(self) -> int:
        """Maximum number of images whose objects are in one."""
        return (4 if self.mosaic_prob > 0 else 1) + (self.copy_paste_prob > 0) + (self.mixup_prob > 0)


HFLIP_ONLY = Augmentation()
"""The paper's: a horizontal flip with probability 0.5."""

NO_AUGMENTATION = Augmentation(hflip_prob=0.0)
"""For evaluation."""
