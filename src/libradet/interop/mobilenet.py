"""MobileNetV3-Large in torchvision's checkpoints: which tensors it has, and the names of its layers."""

from collections.abc import Iterator

from libradet.errors import UserError
from libradet.interop.checkpoint_format import KeyMap, Tensors

NAME = "mobilenetv3_large_100"
"""timm's name."""

STEM, LAST = 0, 16
"""Indices of torchvision's first and last layer; the blocks are numbered between them."""

BLOCKS_PER_STAGE = (1, 2, 3, 4, 2, 3)
"""Of timm, whose further stage is the last layer."""

WITH_ATTENTION = (2, 4, 5)
"""Stages whose blocks have squeeze-and-excitation."""

PREFIX = "backbone.body."


def has_mobilenet(tensors: Tensors) -> bool:
    """Return whether the backbone is one of torchvision's MobileNets, version 2 or 3."""
    return f"{PREFIX}{STEM}.0.weight" in tensors


def check_mobilenet(tensors: Tensors) -> None:
    """Raise UserError unless backbone and pyramid are those of torchvision's detectors on MobileNetV3-Large."""
    last = tensors.get(f"{PREFIX}{LAST}.0.weight")
    if last is None or tuple(last.shape[:2]) != (960, 160):
        raise UserError("its backbone is not a supported MobileNet; the only one is MobileNetV3-Large")
    laterals = [name for name in tensors if name.startswith("backbone.fpn.inner_blocks.") and name.endswith("0.weight")]
    inputs = [tensors[name].shape[1] for name in sorted(laterals)]
    if inputs != [160, 960]:
        raise UserError(
            f"its pyramid reads features of {inputs} channels; on a MobileNet, only those of torchvision's own "
            "detectors, [160, 960], are supported"
        )


def mobilenet_key_map() -> KeyMap:
    """Return the names of all layers, theirs and ours."""
    return list(_layer_names())


def _layer_names() -> Iterator[tuple[str, str]]:
    yield f"{PREFIX}{STEM}.0", f"{PREFIX}conv_stem.conv"
    yield f"{PREFIX}{STEM}.1", f"{PREFIX}conv_stem.norm"
    number = STEM
    for stage, blocks in enumerate(BLOCKS_PER_STAGE):
        for block in range(blocks):
            number += 1
            yield from _block_layer_names(f"{PREFIX}{number}.block.", f"{PREFIX}blocks.{stage}.{block}.", stage)
    yield f"{PREFIX}{LAST}.0", f"{PREFIX}blocks.{len(BLOCKS_PER_STAGE)}.0.conv"
    yield f"{PREFIX}{LAST}.1", f"{PREFIX}blocks.{len(BLOCKS_PER_STAGE)}.0.bn1"


def _block_layer_names(theirs: str, ours: str, stage: int) -> Iterator[tuple[str, str]]:
    # The block of the first stage does not expand its input.
    convs = ["conv_pw", "conv_dw", "conv_pwl"] if stage else ["conv_dw", "conv_pw"]
    for i, conv in enumerate(convs):
        attention = i == 2 and stage in WITH_ATTENTION
        if attention:
            yield f"{theirs}2.fc1", f"{ours}se.conv_reduce"
            yield f"{theirs}2.fc2", f"{ours}se.conv_expand"
        yield f"{theirs}{i + attention}.0", f"{ours}{conv}"
        yield f"{theirs}{i + attention}.1", f"{ours}bn{i + 1}"
