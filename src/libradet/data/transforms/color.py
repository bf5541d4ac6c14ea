"""Color jitter: brightness, contrast, saturation and hue."""

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as F

HUE = 0.25
"""Hue shift, in turns, for a strength of 1: 0.4 is torchvision's customary ColorJitter(0.4, 0.4, 0.4, 0.1)."""


def color_jitter(image: UInt8[Tensor, "3 H W"], strength: float, rng: np.random.Generator) -> UInt8[Tensor, "3 H W"]:
    """Scale brightness, contrast and saturation by 1 +- ``strength``, shift hue by +- HUE * ``strength``.

    The four steps come in random order.
    """
    brightness, contrast, saturation = 1 + strength * rng.uniform(-1, 1, 3)
    hue = HUE * strength * rng.uniform(-1, 1)
    steps: list[Callable[[Tensor], Tensor]] = [
        partial(F.adjust_brightness, brightness_factor=float(brightness)),
        partial(F.adjust_contrast, contrast_factor=float(contrast)),
        partial(F.adjust_saturation, saturation_factor=float(saturation)),
        partial(F.adjust_hue, hue_factor=float(hue)),
    ]
    for step in rng.permutation(len(steps)):
        image = steps[step](image)
    return image
