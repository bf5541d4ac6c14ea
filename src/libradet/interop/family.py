"""What is to be known about a toolbox to read and write its checkpoints."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from libradet.interop.resnet import Pairs
from libradet.models.config import DetectorConfig

Tensors = Mapping[str, Tensor]


class Layout(NamedTuple):
    """How one checkpoint is laid out.

    Attributes:
        pairs: names of layers, there and here.
        background_first: class 0 is background, and has deltas (unused) if boxes are class-specific.
        sizes_first: anchors of one cell are sorted by size, then by ratio, not by ratio first.
        ignored: names that say nothing about weights; surplus otherwise.
    """

    pairs: Pairs
    background_first: bool = False
    sizes_first: bool = False
    ignored: tuple[str, ...] = ()


class Family(NamedTuple):
    """A toolbox.

    Attributes:
        name: what people call it.
        recognizes: whether tensors carry its names.
        normalize: names as its newest version has them.
        describe: the detector that the (normalized) tensors and notes of a checkpoint belong to.
        layout: of such a detector's checkpoint: of given tensors, or (None) of what the newest version writes.
    """

    name: str
    recognizes: Callable[[Tensors], bool]
    normalize: Callable[[Tensors], dict[str, Tensor]]
    describe: Callable[[Tensors, Mapping[str, Any]], DetectorConfig]
    layout: Callable[[Tensors | None, DetectorConfig], Layout]
