"""ResNets in checkpoints: which one it is, and the names of its layers."""

from collections.abc import Iterator
from typing import NamedTuple

from libradet.errors import UserError
from libradet.interop.checkpoint_format import KeyMap, Tensors

DEPTHS: dict[tuple[int | bool, ...], str] = {
    (2, 2, 2, 2, False): "resnet18",
    (3, 4, 6, 3, False): "resnet34",
    (3, 4, 6, 3, True): "resnet50",
    (3, 4, 23, 3, True): "resnet101",
    (3, 8, 36, 3, True): "resnet152",
}
"""timm's names by the number of blocks per stage, and whether they are bottlenecks."""

MAX_BLOCKS = 36

WIDTHS = {
    ("resnet50", 32, 4): "resnext50_32x4d",
    ("resnet101", 32, 4): "resnext101_32x4d",
    ("resnet101", 32, 8): "resnext101_32x8d",
    ("resnet101", 64, 4): "resnext101_64x4d",
    ("resnet50", 1, 128): "wide_resnet50_2",
    ("resnet101", 1, 128): "wide_resnet101_2",
}
"""timm's names by depth, number of groups and their width in the first stage."""


class ResNetNaming(NamedTuple):
    """Names of a ResNet's layers, all below ``prefix``; stages are numbered from ``first``."""

    prefix: str
    stem_conv: str = "conv1"
    stem_norm: str = "bn1"
    stage: str = "layer"
    first: int = 1
    norm: str = "bn{}"
    shortcut_conv: str = "downsample.0"
    shortcut_norm: str = "downsample.1"

    def block(self, stage: int, block: int) -> str:
        """Return the prefix of the layers of a block; both numbers count from 0."""
        return f"{self.prefix}{self.stage}{stage + self.first}.{block}."


def infer_backbone_name(tensors: Tensors, naming: ResNetNaming) -> str:
    """Return timm's name of the ResNet in a checkpoint. Raises UserError if it is not a supported one."""
    blocks = [sum(f"{naming.block(s, b)}conv1.weight" in tensors for b in range(MAX_BLOCKS + 1)) for s in range(4)]
    bottleneck = f"{naming.block(0, 0)}conv3.weight" in tensors
    stem = tensors.get(f"{naming.prefix}{naming.stem_conv}.weight")
    depth = DEPTHS.get((*blocks, bottleneck))
    if depth is None or stem is None or tuple(stem.shape[2:]) != (7, 7):
        raise UserError(f"its backbone is not a supported ResNet ({blocks} blocks per stage)")
    inner = tensors[f"{naming.block(0, 0)}conv2.weight"].shape
    groups, width = inner[0] // inner[1], inner[1]
    if (groups, width) == (1, 64):
        return depth
    if (depth, groups, width) not in WIDTHS:
        raise UserError(f"its backbone, a {depth} with {groups} groups of width {width}, is not supported")
    return WIDTHS[depth, groups, width]


def resnet_key_map(naming: ResNetNaming) -> KeyMap:
    """Return the names of all layers that any supported ResNet can have."""
    return list(_layer_names(naming))


def _layer_names(naming: ResNetNaming) -> Iterator[tuple[str, str]]:
    body = "backbone.body."
    yield f"{naming.prefix}{naming.stem_conv}", f"{body}conv1.conv"
    yield f"{naming.prefix}{naming.stem_norm}", f"{body}conv1.norm"
    for stage in range(4):
        for block in range(MAX_BLOCKS):
            theirs, ours = naming.block(stage, block), f"{body}layer{stage + 1}.{block}."
            for i in (1, 2, 3):
                yield f"{theirs}conv{i}", f"{ours}conv{i}.conv"
                yield f"{theirs}{naming.norm.format(i)}", f"{ours}conv{i}.norm"
            yield f"{theirs}{naming.shortcut_conv}", f"{ours}downsample.0.conv"
            yield f"{theirs}{naming.shortcut_norm}", f"{ours}downsample.0.norm"
