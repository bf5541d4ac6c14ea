"""Feature extractors of timm, and weights for them."""

from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from libradet.errors import UserError
from libradet.models.backbone_list import fits_detectors, similar_backbones
from libradet.models.config import BACKBONE_STRIDES, FEATURE_STRIDES
from libradet.models.load_pretrained import IMAGENET_TAGS, BackboneWeights
from libradet.models.plain_vit import (
    PATCH_SIZES,
    STRIDE,
    build_plain_vit,
    convert_plain_vit_weights,
    describe_plain_vit,
)
from libradet.models.random_init import without_random_init
from libradet.models.stride32_features import Stride32Features
from libradet.utils.text import counted, summarize_list


class Body(NamedTuple):
    """Attributes:
    module: the feature extractor.
    rows: indices of the features that are used, finest first.
    strides: of these features: 4 to 32, twice 32, or 16 alone for a plain ViT.
    """

    module: nn.Module
    rows: list[int]
    strides: tuple[int, ...]


def create_body(name: str, pretrained: bool, features: Literal["stages", "stride_32"] = "stages") -> Body:
    """Build the feature extractor of a timm model, with weights of timm if ``pretrained``.

    Args:
        features: see :class:`libradet.models.config.BackboneConfig`.

    Raises:
        UserError: unknown name, no features that detectors need, or weights that cannot be downloaded.
    """
    from libradet.utils.quick_timm import timm

    # A configuration may come from an untrusted file: timm would download "hf-hub:..." or read "local-dir:...".
    if not timm.is_model(name):
        raise UserError(f"backbone {name!r} is not a timm model; similar names: {similar_backbones(name)}")
    _check_is_listed(name)
    try:
        body: Any = _build(name)
        rows, strides = _used_features(body, name)
    except (RuntimeError, AttributeError, TypeError) as e:
        similar = similar_backbones(name)
        raise UserError(f"backbone {name!r} is not a timm model with features; similar names: {similar}") from e
    body = _build_pretrained(name) if pretrained else body
    if features == "stages":
        return Body(body, rows, strides)
    body = Stride32Features(body, name)
    return Body(body, [body.first_row, rows[-1]], FEATURE_STRIDES[features])


def stage_rows(body: Any) -> list[int]:
    """Return the indices of the features that end the stages, of stride 4 to 32."""
    reductions = body.feature_info.reduction()
    return [reductions.index(stride) for stride in BACKBONE_STRIDES]


def has_batch_norms(name: str) -> bool:
    """Return whether the features of a timm model have batch norms; True if it has no features, which is refused later.

    A network of another kind has none, ConvNeXt and transformers for example.
    """
    from libradet.utils.quick_timm import timm

    if not timm.is_model(name):
        return True
    try:
        with without_random_init():
            body = _build(name)
    except (RuntimeError, AttributeError, TypeError):
        return True
    return any(isinstance(module, _BatchNorm) for module in body.modules())


def load_weights(body: nn.Module, name: str, weights: BackboneWeights) -> str:
    """Load all tensors that the features need; return a summary of the loaded and the ignored tensors.

    Raises:
        UserError: tensors are missing or of another shape.
    """
    own, tensors = body.state_dict(), weights.tensors
    if describe_plain_vit(name) is not None:
        tensors = _convert_plain_vit_weights(body, name, weights)
    # timm flattens most models: "stages.0.x" is then "stages_0.x".
    own_names = {n: n if n in own else n.replace(".", "_", 1) for n in tensors}
    matching = {
        own_names[n]: t for n, t in tensors.items() if own_names[n] in own and own[own_names[n]].shape == t.shape
    }
    missing = [n for n in own if n not in matching and not n.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"{weights.path}: not weights of the backbone {name}: {len(missing)} of its {len(own)} tensors are missing "
            f"or of another shape ({summarize_list(missing, 3)}); set --backbone to the model that they belong to"
        )
    body.load_state_dict(matching, strict=False)
    ignored = [n for n in tensors if own_names[n] not in matching]
    summary = f"{len(ignored)} ignored ({summarize_list(ignored, 4)})" if ignored else "none ignored"
    return f"{counted(len(matching), 'tensor')} of {name} from {weights.path}, {summary}"


def _check_is_listed(name: str) -> None:
    """Raise UserError for models of timm that fit no detector; those that others have registered are tried."""
    from libradet.utils.quick_timm import timm

    # That of a plain ViT names its patches.
    if fits_detectors(name) or describe_plain_vit(name) is not None:
        return
    if timm.models.model_entrypoint(name).__module__.startswith("timm."):
        raise UserError(
            f"backbone {name!r} is a timm model that no detector can be built on; similar ones that fit: "
            f"{similar_backbones(name)} (all: libradet models --backbones '*')"
        )


def _build(name: str, pretrained: bool = False) -> nn.Module:
    from libradet.utils.quick_timm import timm

    vit = describe_plain_vit(name)
    if vit is not None:
        return build_plain_vit(name, vit, pretrained)
    # Swin transformers accept one image size only, unless this is set.
    options: dict[str, Any] = {"strict_img_size": False} if name.startswith("swin") else {}
    return timm.create_model(name, features_only=True, pretrained=pretrained, **options)


def _used_features(body: Any, name: str) -> tuple[list[int], tuple[int, ...]]:
    """Return indices and strides of the features that a detector uses."""
    vit = describe_plain_vit(name)
    if vit is not None and vit.patch_size not in PATCH_SIZES:
        sizes = " and ".join(map(str, PATCH_SIZES))
        raise UserError(f"backbone {name!r} is a plain ViT of patch size {vit.patch_size}: only {sizes} are supported")
    if vit is not None:
        return [0], (STRIDE,)
    if not set(BACKBONE_STRIDES) <= set(body.feature_info.reduction()):
        raise UserError(f"backbone {name!r} has no features at strides {BACKBONE_STRIDES}; choose one that has")
    return stage_rows(body), BACKBONE_STRIDES


def _build_pretrained(name: str) -> nn.Module:
    from libradet.utils.quick_timm import timm

    tag = IMAGENET_TAGS.get(name, name)
    if not timm.is_model_pretrained(tag):
        raise UserError(f"timm has no ImageNet weights of {tag!r}; use --weights none, or another backbone")
    try:
        return _build(tag, pretrained=True)
    except (OSError, RuntimeError) as e:
        raise UserError(
            f"ImageNet weights of {tag!r} could not be downloaded ({type(e).__name__}): no model hub can be reached. "
            "Use --weights none, --weights PATH of a saved model or of the backbone's weights, or fill the hub's cache "
            "on a connected machine"
        ) from e


def _convert_plain_vit_weights(body: nn.Module, name: str, weights: BackboneWeights) -> dict[str, Tensor]:
    try:
        return convert_plain_vit_weights(body, weights.tensors)
    except (RuntimeError, AttributeError, LookupError, TypeError, ValueError) as e:
        reason = " ".join(str(e).split())[:100]
        raise UserError(
            f"{weights.path}: not weights of the backbone {name} ({reason}); set --backbone to the model that they "
            "belong to"
        ) from e
