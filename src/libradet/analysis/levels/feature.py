"""Feature level (paper 3.2): similarity, activations and contribution of pyramid levels, and the objects on each."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from libradet.balance.pyramid import rescale
from libradet.data.validation.split import LARGE_AREA, SMALL_AREA
from libradet.geometry.anchors import inside_image

SIZES = ("small", "medium", "large")
"""COCO's size categories: area below 32², below 96², and above, in pixels of the original image."""

SIZE_LIMITS = (SMALL_AREA, LARGE_AREA)
"""Smallest areas of medium and of large objects."""

MAX_CELLS = 2048
"""Maximum number of cells per batch, evenly spaced; the cost is quadratic in the channels of all levels."""


class PyramidStatistics:
    """First and second moments of pyramid levels, resized to one of them as in the balanced pyramid.

    Cells in the padding are excluded.

    Args:
        target: index of the level to whose size all levels are resized.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._cells = 0
        self._sum: Tensor | None = None
        self._products: Tensor | None = None
        self._energy: Tensor | None = None
        self._entries: Tensor | None = None
        self._levels = 0

    def update(self, pyramid: list[Float[Tensor, "B C _ _"]], sizes: Int[Tensor, "B 2"], strides: list[int]) -> None:
        """Add the levels of a batch of images of these sizes (height, width)."""
        self._levels = len(pyramid)
        height, width = pyramid[self.target].shape[-2:]
        inside = _inside(height, width, sizes, strides[self.target])
        # The columns hold level after level: the products of two levels are a block of the product matrix.
        rows = torch.cat([rescale(x, height, width).permute(0, 2, 3, 1)[inside] for x in pyramid], 1)
        if len(rows) > MAX_CELLS:
            rows = rows[torch.linspace(0, len(rows) - 1, MAX_CELLS, device=rows.device).long()]
        rows = rows.double()
        first, second = rows.sum(0).cpu(), (rows.T @ rows).cpu()
        energy, entries = zip(*(_energy(x, sizes, s) for x, s in zip(pyramid, strides, strict=True)), strict=True)
        self._cells += len(rows)
        self._sum = first if self._sum is None else self._sum + first
        self._products = second if self._products is None else self._products + second
        self._energy = _add(self._energy, energy)
        self._entries = _add(self._entries, entries)

    def compute(self) -> dict[str, Any]:
        """Return the numbers for the report.

        ``cka`` [L, L]; ``others``: mean CKA of each level with the others; ``rms``: root mean square of each level's
        activations at its own size; ``integration``: share of each level in the average of all.
        """
        assert self._sum is not None
        assert self._products is not None
        assert self._energy is not None
        assert self._entries is not None
        table = linear_cka(self._sum.numpy(), self._products.numpy(), self._cells, self._levels)
        others = (table.sum(1) - 1) / max(1, self._levels - 1)
        return {
            "cka": table.tolist(),
            "others": others.tolist(),
            "mean_cka": float(others.mean()) if self._levels > 1 else None,
            "rms": (self._energy / self._entries).sqrt().tolist(),
            "integration": integration_shares(self._products.numpy(), self._levels).tolist(),
        }


def linear_cka(
    sums: Float[ndarray, " LC"], products: Float[ndarray, "LC LC"], count: int, levels: int
) -> Float[ndarray, "L L"]:
    """Return the linear centered kernel alignment (Kornblith et al., 2019) of every pair of levels, from 0 to 1.

    Args:
        sums, products: Σ x and Σ x xᵀ over cells, where x holds the channels of all levels, level by level.
    """
    covariance = products - np.outer(sums, sums) / count
    blocks = covariance.reshape(levels, len(sums) // levels, levels, -1)
    shared = np.einsum("icjd,icjd->ij", blocks, blocks)
    own = np.sqrt(np.diag(shared))
    raw = products.reshape(levels, len(sums) // levels, levels, -1)
    # A constant level has nothing in common with any other: its covariance is rounding error.
    varies = own > 1e-9 * np.sqrt(np.einsum("icid,icid->i", raw, raw))
    scale = np.where(varies, own, np.inf)
    return np.where(np.eye(levels, dtype=bool), 1.0, shared / np.outer(scale, scale)).clip(0, 1)


def integration_shares(products: Float[ndarray, "LC LC"], levels: int) -> Float[ndarray, " L"]:
    """Return the share of each level in the plain average of all: ⟨x_l, a⟩ / ⟨Σ x, a⟩, which add up to 1."""
    blocks = products.reshape(levels, len(products) // levels, levels, -1)
    along = np.einsum("icjc->ij", blocks).sum(1)
    total = along.sum()
    return along / total if total else np.full(levels, 1 / levels)


def level_name(stride: int) -> str:
    """Return the name of the pyramid level of a stride: P2 for stride 4, and so on."""
    return f"P{stride.bit_length() - 1}"


def _inside(height: int, width: int, sizes: Tensor, stride: int) -> Bool[Tensor, "B H W"]:
    return inside_image([(height, width)], [stride], 1, sizes).unflatten(1, (height, width))


def _energy(x: Tensor, sizes: Tensor, stride: int) -> tuple[float, int]:
    inside = _inside(x.shape[2], x.shape[3], sizes, stride)
    return float((x.double().square().sum(1) * inside).sum()), int(inside.sum()) * x.shape[1]


def _add(before: Tensor | None, more: tuple) -> Tensor:
    added = torch.tensor(more, dtype=torch.float64)
    return added if before is None else before + added


def count_by_level_and_size(levels: Int[Tensor, " N"], kinds: Int[Tensor, " N"], num_levels: int) -> list[list[int]]:
    """Return counts [L, 3] by level and size (0 small, 1 medium, 2 large)."""
    flat = torch.bincount(levels * len(SIZES) + kinds, minlength=num_levels * len(SIZES))
    return flat.view(num_levels, len(SIZES)).tolist()


def size_category(areas: Float[Tensor, "*N"]) -> Int[Tensor, "*N"]:
    """Return COCO's size categories of areas in pixels: 0 small, 1 medium, 2 large."""
    return torch.bucketize(areas.double(), torch.tensor(SIZE_LIMITS, dtype=torch.float64), right=True)
