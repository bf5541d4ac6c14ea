"""Prefixes that wrappers of a model, such as DataParallel, ``torch.compile`` or Lightning, put before its names."""

from collections.abc import Callable

from torch import Tensor

from libradet.interop.checkpoint_format import Tensors

WRAPPERS = ("module", "_orig_mod", "model", "net", "network")
"""Attributes under which wrappers usually keep a model."""


def strip_wrappers(tensors: dict[str, Tensor], is_detector: Callable[[Tensors], bool]) -> dict[str, Tensor]:
    """Return tensors without the prefixes that all names share.

    Any prefix is removed where a detector's names remain. Otherwise, as for a backbone alone, whose names are not
    known, only those of ``WRAPPERS`` are.

    Args:
        is_detector: whether tensors have the names of a supported toolbox.
    """
    tensors = {name.replace("_orig_mod.", ""): tensor for name, tensor in tensors.items()}
    stripped, without_wrappers = tensors, tensors
    while not is_detector(stripped):
        first = common_first_part(stripped)
        if first is None:
            return without_wrappers
        is_wrapper = first in WRAPPERS and without_wrappers is stripped
        stripped = {name.removeprefix(f"{first}."): tensor for name, tensor in stripped.items()}
        without_wrappers = stripped if is_wrapper else without_wrappers
    return stripped


def common_first_part(tensors: Tensors) -> str | None:
    """Return the part before the first dot if all names have the same, and None otherwise."""
    parts = {name.partition(".")[0] if "." in name else None for name in tensors}
    return parts.pop() if len(parts) == 1 else None
