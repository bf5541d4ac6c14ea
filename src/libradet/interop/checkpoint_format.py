"""Description of a toolbox's checkpoints: detection, configuration and names of layers."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from libradet.models.config import DetectorConfig, Norm

Tensors = Mapping[str, Tensor]

KeyMap = list[tuple[str, str]]
"""Pairs of layer names: the toolbox's, ours."""


class StateDictLayout(NamedTuple):
    """Layout of a checkpoint's state dict.

    Attributes:
        key_map: pairs of layer names, theirs and ours.
        background_first: class 0 is background, and has (unused) deltas if boxes are class-specific.
        sizes_first: the anchors of a location are sorted by size, then by ratio, instead of by ratio first.
        ignored: prefixes of names that are not weights and not reported as unexpected.
    """

    key_map: KeyMap
    background_first: bool = False
    sizes_first: bool = False
    ignored: tuple[str, ...] = ()


class CheckpointFormat(NamedTuple):
    """Checkpoint format of a toolbox.

    Attributes:
        name: name of the toolbox.
        matches: returns whether tensors have the toolbox's names.
        normalize_keys: renames tensors of older versions as the newest version does.
        infer_config: returns the configuration that the (renamed) tensors and the metadata of a checkpoint describe.
        layout: returns the layout of a checkpoint of such a detector: of these tensors, or (None) as the newest
            version writes it.
    """

    name: str
    matches: Callable[[Tensors], bool]
    normalize_keys: Callable[[Tensors], dict[str, Tensor]]
    infer_config: Callable[[Tensors, Mapping[str, Any]], DetectorConfig]
    layout: Callable[[Tensors | None, DetectorConfig], StateDictLayout]


def infer_norm(tensors: Tensors, name: str) -> Norm:
    """Return the type of the norm called ``name``: batch norms have statistics, group norms (32 groups) have none."""
    if f"{name}.running_mean" in tensors:
        return "batch"
    return "group" if f"{name}.weight" in tensors else "none"


def conv_key_map(conv: str, norm_layer: str, ours: str, norm: Norm) -> KeyMap:
    """Return the names of a convolution, and of the norm behind it if any.

    Args:
        conv, norm_layer: the toolbox's names.
        ours: our name of the module that :func:`libradet.models.layers.conv` returns.
        norm: type of the norm.
    """
    if norm == "none":
        return [(conv, ours)]
    return [(conv, f"{ours}.conv"), (norm_layer, f"{ours}.norm")]
