"""RoIAlign of one image on a CPU: the sparse matrix of taps times the pixels, and back.

Both directions are weighted sums of rows, which ``embedding_bag`` computes with wide vectors and all threads. Going
back, each pixel sums over the bins that read it: nothing is written twice, and the order is always the same. Sums
are in float32, or in float64 where the features are.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from libradet.geometry.roi_taps import Taps

# So few at once that tables of pixels and bins in float32 stay small; fewer would be more passes over the taps.
CHANNELS = 128


def gather_bins(
    features: Sequence[Float[Tensor, "C _ _"]], taps: Sequence[Taps], out: Float[Tensor, "S C bins"]
) -> None:
    """Write the bins of those boxes that have taps."""
    if not taps:
        return
    pixels = [x[0].numel() for x in features]
    for c in _channels(out):
        table = torch.empty(sum(pixels), out[:1, c].shape[1], dtype=_precise(out.dtype))
        for part, x in zip(table.split(pixels), features, strict=True):
            part.copy_(x[c].flatten(1).t())
        for rows, pixel, weight in taps:
            sums = F.embedding_bag(pixel.flatten(0, 1), table, mode="sum", per_sample_weights=weight.flatten(0, 1))
            bins = sums.unflatten(0, pixel.shape[:2]).transpose(1, 2)
            out[:, c].index_copy_(0, rows, bins.to(out.dtype))


def scatter_bins(
    grad: Float[Tensor, "S C bins"], taps: Sequence[Taps], grads: Sequence[Float[Tensor, "C _ _"]]
) -> None:
    """Write the gradients of the features that those of the bins amount to."""
    if not taps:
        for g in grads:
            g.zero_()
        return
    pixels = [g[0].numel() for g in grads]
    bins = torch.arange(grad[:, 0].numel(), dtype=torch.int32).view(len(grad), -1, 1)
    reader = torch.cat([bins[rows].expand_as(pixel).flatten() for rows, pixel, _ in taps])
    weight = torch.cat([t.weight.flatten() for t in taps])
    pixel, order = torch.cat([t.pixel.flatten() for t in taps]).sort(stable=True)
    reader, weight = reader.index_select(0, order), weight.index_select(0, order)
    starts = torch.searchsorted(pixel, torch.arange(sum(pixels) + 1, dtype=pixel.dtype), out_int32=True)
    for c in _channels(grad):
        rows = grad[:, c].transpose(1, 2)
        table = torch.empty(rows.shape, dtype=_precise(grad.dtype)).copy_(rows).flatten(0, 1)
        sums = F.embedding_bag(reader, table, starts, mode="sum", per_sample_weights=weight, include_last_offset=True)
        for part, g in zip(sums.split(pixels), grads, strict=True):
            g[c].copy_(part.t().unflatten(1, g.shape[1:]))


def _channels(bins: Tensor) -> Iterator[slice]:
    return (slice(c, c + CHANNELS) for c in range(0, bins.shape[1], CHANNELS))


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
