"""Plain ViTs of timm: one feature map of stride 16 at any image size.

Position embeddings are resampled to the size of the batch, and rotary ones computed for it, by timm.
"""

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

STRIDE = 16
PATCH_SIZES = (14, 16)
"""Patches of 14 pixels become patches of 16, so that strides are whole numbers: see :func:`build_plain_vit`."""

VIT_STAGES = 4
"""A stage is this fraction of the blocks, for the layers to freeze."""

MODULES = ("vision_transformer", "eva", "deit")
"""Those of timm with plain ViTs."""

CONV_NAMES = ("resne", "convnext", "swin", "efficientnet", "tf_efficientnet", "mobilenet", "regnet")
"""Beginnings of names that are not those of plain ViTs; for these, timm is not imported."""


class PlainViT(NamedTuple):
    """Attributes:
    patch_size: in pixels.
    grid: number of rows and columns of patches at the size that the model is made for.
    """

    patch_size: int
    grid: tuple[int, int]


@cache
def describe_plain_vit(name: str) -> PlainViT | None:
    """Return the patches of a plain ViT of timm; None if the name is that of another backbone or of none."""
    if name.startswith(CONV_NAMES):
        return None
    import torch
    from timm.layers import PatchEmbed
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    from libradet.utils.quick_timm import timm

    if not timm.is_model(name) or not timm.models.is_model_in_modules(name, MODULES):
        return None
    try:
        # One block without weights: patches do not depend on the depth.
        with torch.device("meta"):
            model: Any = timm.create_model(name, num_classes=0, depth=1, dynamic_img_size=True)
    except (RuntimeError, TypeError, ValueError, AssertionError):
        return None
    if not isinstance(model, (VisionTransformer, Eva)) or type(model.patch_embed) is not PatchEmbed:
        return None
    embedding: Any = model.patch_embed
    height, width = embedding.patch_size
    return PlainViT(height, embedding.grid_size) if height == width else None


def uses_simple_pyramid(name: str) -> bool:
    """Whether a backbone is a plain ViT that detectors can be built on."""
    vit = describe_plain_vit(name)
    return vit is not None and vit.patch_size in PATCH_SIZES


def build_plain_vit(name: str, vit: PlainViT, pretrained: bool = False) -> "nn.Module":
    """Build a feature extractor with one output, the last feature map after the model's final norm.

    A patch embedding of 14 x 14 pixels is resampled to 16 x 16 when weights are loaded (FlexiViT; Beyer et al., CVPR
    2023): it computes the same for patches that are enlarged to 16 x 16. The position embedding keeps its grid.

    Args:
        vit: of that name.
        pretrained: download timm's weights.
    """
    from timm.models._features import FeatureGetterNet

    from libradet.utils.quick_timm import timm

    options: dict[str, Any] = {}
    if vit.patch_size != STRIDE:
        options = {"patch_size": STRIDE, "img_size": tuple(STRIDE * cells for cells in vit.grid)}
    model = timm.create_model(name, num_classes=0, pretrained=pretrained, dynamic_img_size=True, **options)
    return FeatureGetterNet(model, out_indices=1, norm=True)


def convert_plain_vit_weights(body: "nn.Module", tensors: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Return weights, of timm or of the model's authors, under the names and in the shapes of the feature extractor."""
    from timm.models import eva, vision_transformer

    model: Any = body.model
    module = eva if isinstance(model, eva.Eva) else vision_transformer
    return {f"model.{name}": t for name, t in module.checkpoint_filter_fn(dict(tensors), model).items()}


def plain_vit_depths(body: "nn.Module") -> dict[str, int]:
    """Return how many blocks below the output each parameter is: 1 in the last block, one more in the embeddings.

    These are the layers of ViTDet's learning rate decay.
    """
    from timm.models import group_parameters

    model: Any = body.model
    num_blocks = len(model.blocks)
    groups: dict[int, Any] = group_parameters(model, model.group_matcher())
    return {f"model.{name}": max(num_blocks + 1 - layer, 0) for layer, names in groups.items() for name in names}


def freeze_plain_vit(body: "nn.Module", stages: int) -> None:
    """Freeze the embeddings and ``stages`` quarters of the blocks."""
    model: Any = body.model
    num_blocks = len(model.blocks)
    last = num_blocks + 1 - num_blocks * min(stages, VIT_STAGES) // VIT_STAGES
    for name, depth in plain_vit_depths(body).items():
        if depth >= last:
            body.get_parameter(name).requires_grad_(False)
