"""ResNets in checkpoints: which one it is, and how its layers are called there and here."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from libradet.errors import UserError

Pairs = list[tuple[str, str]]
"""Names of layers: there, here."""

DEPTHS: dict[tuple[int | bool, ...], str] = {
    (2, 2, 2, 2, False): "resnet18",
    (3, 4, 6, 3, False): "resnet34",
    (3, 4, 6, 3, True): "resnet50",
    (3, 4, 23, 3, True): "resnet101",
    (3, 8, 36, 3, True): "resnet152",
}
MOST_BLOCKS = 36
# Groups and their width in the first stage.
WIDTHS = {
    ("resnet50", 32, 4): "resnext50_32x4d",
    ("resnet101", 32, 4): "resnext101_32x4d",
    ("resnet101", 32, 8): "resnext101_32x8d",
    ("resnet101", 64, 4): "resnext101_64x4d",
    ("resnet50", 1, 128): "wide_resnet50_2",
    ("resnet101", 1, 128): "wide_resnet101_2",
}


class Naming(NamedTuple):
    """How layers are called, all below ``prefix``; stages count from ``first``."""

    prefix: str
    stem_conv: str = "conv1"
    stem_norm: str = "bn1"
    stage: str = "layer"
    first: int = 1
    norm: str = "bn{}"
    shortcut_conv: str = "downsample.0"
    shortcut_norm: str = "downsample.1"

    def block(self, stage: int, block: int) -> str:
        """Start of the names of a block's layers; both count from 0."""
        return f"{self.prefix}{self.stage}{stage + self.first}.{block}."


def name_backbone(tensors: Mapping[str, Tensor], naming: Naming) -> str:
    """timm's name of the ResNet whose tensors these are. Raises UserError if it is none of those we know."""
    blocks = [sum(f"{naming.block(s, b)}conv1.weight" in tensors for b in range(MOST_BLOCKS + 1)) for s in range(4)]
    bottleneck = f"{naming.block(0, 0)}conv3.weight" in tensors
    stem = tensors.get(f"{naming.prefix}{naming.stem_conv}.weight")
    depth = DEPTHS.get((*blocks, bottleneck))
    if depth is None or stem is None or tuple(stem.shape[2:]) != (7, 7):
        raise UserError(f"its backbone is not a ResNet that libradet knows ({blocks} blocks per stage)")
    inner = tensors[f"{naming.block(0, 0)}conv2.weight"].shape
    groups, width = inner[0] // inner[1], inner[1]
    if (groups, width) == (1, 64):
        return depth
    if (depth, groups, width) not in WIDTHS:
        raise UserError(f"its backbone is a {depth} of {groups} groups of width {width}, which libradet does not know")
    return WIDTHS[depth, groups, width]


def resnet_pairs(naming: Naming) -> Pairs:
    """Names of the layers of every ResNet that we know; none has all of them."""
    return list(_pairs(naming))


def _pairs(naming: Naming) -> Iterator[tuple[str, str]]:
    here = "backbone.body."
    yield f"{naming.prefix}{naming.stem_conv}", f"{here}conv1.conv"
    yield f"{naming.prefix}{naming.stem_norm}", f"{here}conv1.norm"
    for stage in range(4):
        for block in range(MOST_BLOCKS):
            there, ours = naming.block(stage, block), f"{here}layer{stage + 1}.{block}."
            for i in (1, 2, 3):
                yield f"{there}conv{i}", f"{ours}conv{i}.conv"
                yield f"{there}{naming.norm.format(i)}", f"{ours}conv{i}.norm"
            yield f"{there}{naming.shortcut_conv}", f"{ours}downsample.0.conv"
            yield f"{there}{naming.shortcut_norm}", f"{ours}downsample.0.norm"
