"""How training images are varied: which switches there are, and nothing that would need torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """What may happen to an image in training; what happens to it is a function of (seed, epoch, image).

    Attributes:
        flip: probability of mirroring.
        scale_jitter: least and largest factor by which images are resized beyond their training size; see
            :meth:`libradet.data.loading.samples.Samples`.
        mosaic: probability of four images in place of one (``mosaic.py``).
        copy_paste: probability of objects of another image pasted in (``copy_paste.py``).
        color_jitter: how far colors stray (``colors.py``).
        mixed_epochs: mosaic and copy-paste end after so many epochs; None for never.
    """

    flip: float = 0.5
    scale_jitter: tuple[float, float] | None = None
    mosaic: float = 0.0
    copy_paste: float = 0.0
    color_jitter: float = 0.0
    mixed_epochs: int | None = None

    @property
    def zoom(self) -> float | None:
        """By how much images may become larger than their training size; None if they keep to it."""
        return None if self.scale_jitter is None else max(1.0, self.scale_jitter[1])

    @property
    def mixes(self) -> bool:
        """Whether an image may come to hold parts of others."""
        return self.mosaic > 0 or self.copy_paste > 0

    def mixes_in(self, epoch: int) -> bool:
        """Whether it may in this epoch."""
        return self.mixes and (self.mixed_epochs is None or epoch < self.mixed_epochs)

    @property
    def crowding(self) -> int:
        """How many images' objects may be in one."""
        return (4 if self.mosaic > 0 else 1) + (self.copy_paste > 0)


FLIPPED = Augmentation()
"""The paper's: mirrored half of the time."""

NONE = Augmentation(flip=0.0)
"""As they are, for measuring."""
