"""Weights that a backbone starts from: ImageNet's, through timm, or those of a file."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

# The ImageNet weights that the papers of this field start from, where timm's own default differs.
IMAGENET_TAGS = {
    "resnet18": "resnet18.tv_in1k",
    "resnet34": "resnet34.tv_in1k",
    "resnet50": "resnet50.tv_in1k",
    "resnet101": "resnet101.tv_in1k",
    "resnext101_64x4d": "resnext101_64x4d.tv_in1k",
}

Statistics = tuple[float, float, float]


class BackboneWeights(NamedTuple):
    """Trained weights of a backbone alone, under timm's names (torchvision's ResNets have the same).

    Attributes:
        path: the file that they come from.
        tensors: by name; classifiers and the like are left over.
    """

    path: Path
    tensors: "dict[str, Tensor]"


def pixel_statistics(name: str) -> tuple[Statistics, Statistics] | None:
    """Mean and deviation (RGB, 0..255) that timm's weights of a backbone were trained with; None if it has none."""
    import timm

    found = timm.get_pretrained_cfg(IMAGENET_TAGS.get(name, name), allow_unregistered=True)
    if found is None:
        return None
    # Decimals, so that 0.485 * 255 is 123.675 and not a neighbor.
    (r, g, b), (dr, dg, db) = ([round(255 * value, 3) for value in values] for values in (found.mean, found.std))
    return (r, g, b), (dr, dg, db)
