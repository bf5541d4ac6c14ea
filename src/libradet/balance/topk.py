"""The largest of many numbers, by the maxima of blocks of them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK_SIZE = 64


def fast_topk(priority: Float[Tensor, "B N"], count: int) -> tuple[Float[Tensor, "B count"], Int[Tensor, "B count"]]:
    """Return ``priority.topk(count)``, in a fraction of its time where ``count`` is small compared with N.

    The ``count`` largest entries are in the ``count`` blocks of largest maximum, which one pass determines.
    """
    if priority.shape[1] // BLOCK_SIZE < 4 * count:
        return priority.topk(count, dim=1)
    blocks = block_maxima(priority, BLOCK_SIZE).topk(count, dim=1, sorted=False).indices
    positions = entries_of_blocks(blocks, BLOCK_SIZE, priority.shape[1])
    value, at = priority.gather(1, positions).topk(count, dim=1)
    return value, positions.gather(1, at)


def block_maxima(values: Float[Tensor, "B N"], size: int) -> Float[Tensor, "B M"]:
    """Return the largest entry of each whole block of ``size``."""
    blocks = values.shape[1] // size
    return values[:, : blocks * size].unflatten(1, (blocks, size)).amax(2)


def entries_of_blocks(blocks: Int[Tensor, "B M"], size: int, number: int) -> Int[Tensor, "B _"]:
    """Return the positions of the entries in ``blocks`` of ``size``, and of those after the last whole block.

    Args:
        number: N, the number of all entries.
    """
    inside = torch.arange(size, device=blocks.device)
    # Entries after the last whole block are candidates, too.
    rest = torch.arange(number // size * size, number, device=blocks.device).expand(len(blocks), -1)
    return torch.cat([(blocks[..., None] * size + inside).flatten(1), rest], 1)
