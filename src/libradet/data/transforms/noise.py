"""Gaussian blur and Gaussian noise."""

from math import ceil

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as F

WHITE = 255


def gaussian_blur(image: UInt8[Tensor, "3 H W"], max_sigma: float, rng: np.random.Generator) -> UInt8[Tensor, "3 H W"]:
    """Blur with a Gaussian whose standard deviation is drawn between 0 and ``max_sigma`` pixels.

    The kernel extends to three standard deviations, at most to the image's opposite edge, where pixels are reflected.
    """
    sigma = rng.uniform(0, max_sigma)
    height, width = image.shape[1:]
    kernel_size = [2 * min(ceil(3 * sigma), side - 1) + 1 for side in (width, height)]
    return F.gaussian_blur(image, kernel_size, [sigma, sigma]) if sigma > 0 else image


def gaussian_noise(image: UInt8[Tensor, "3 H W"], max_sigma: float, rng: np.random.Generator) -> UInt8[Tensor, "3 H W"]:
    """Add Gaussian noise, independent for each value, with a standard deviation between 0 and ``max_sigma`` * 255."""
    sigma = rng.uniform(0, max_sigma) * WHITE
    noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
    return (image + sigma * noise).round().clamp(0, WHITE).to(torch.uint8)
