"""Backbones: any timm model that gives features at strides 4, 8, 16 and 32."""

from itertools import pairwise
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from libradet.errors import UserError
from libradet.models.config import BackboneConfig
from libradet.models.depthwise import use_quick_gradients
from libradet.models.folding import can_fold, fixed_scale, folded_conv
from libradet.models.pretrained import IMAGENET_TAGS, BackboneWeights

STRIDES = (4, 8, 16, 32)


class ConvNorm(nn.Module):
    """A convolution and the norm behind it; with a batch norm, one convolution while its statistics are fixed.

    conv + norm is a convolution with weight w*γ/σ and bias β - μγ/σ. It is folded at every call from the
    live parameters, so gradients are those of the two layers, and one pass over memory and one saved
    activation are spared.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | nn.GroupNorm) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm

    def forward(self, x: Float[Tensor, "B Ci Hi Wi"]) -> Float[Tensor, "B Co Ho Wo"]:
        fixed = fixed_scale(self.conv, self.norm)
        return self.norm(self.conv(x)) if fixed is None else folded_conv(x, *fixed, self.conv)


def pair_convs_with_norms(module: nn.Module) -> None:
    """Replace, in place, every convolution directly followed by its plain batch norm with a :class:`ConvNorm`."""
    children = list(module.named_children())
    for (name, conv), (next_name, norm) in pairwise(children):
        if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and can_fold(conv, norm):
            setattr(module, name, ConvNorm(conv, norm))
            setattr(module, next_name, nn.Identity())
    for child in module.children():
        if not isinstance(child, ConvNorm):
            pair_convs_with_norms(child)


class Backbone(nn.Module):
    """A timm feature extractor with frozen parts.

    Args:
        config: name and what is frozen.
        pretrained: load ImageNet weights through timm, or those of a file.

    Attributes:
        origin: what was used of a file, and what was left over; empty without one.

    Raises:
        UserError: unknown name, no features at strides 4 to 32, or weights that cannot be reached or do not fit.
    """

    def __init__(self, config: BackboneConfig, pretrained: bool | BackboneWeights = False) -> None:
        super().__init__()
        self.frozen_norm = config.frozen_norm
        given = pretrained if isinstance(pretrained, BackboneWeights) else None
        self.body, rows = _create_body(config.name, pretrained is True)
        self.origin = _fill(self.body, config.name, given) if given else ""
        info: Any = self.body.feature_info
        self.channels: list[int] = [info.channels()[row] for row in rows]
        self.rows = rows
        self.gives_nhwc = getattr(self.body, "output_fmt", "NCHW") == "NHWC"
        if config.freeze_at and not _freeze(self.body, config.freeze_at - 1, info.module_name()[rows[0]].split(".")):
            raise UserError(f"backbone {config.name!r} has no stem and stages of its own to freeze; set freeze_at to 0")
        if config.stride_in_1x1:
            _move_strides(self.body, config.name)
        for module in self.body.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and config.norm_eps is not None:
                module.eps = config.norm_eps
        pair_convs_with_norms(self.body)
        use_quick_gradients(self.body)
        self.train()

    def train(self, mode: bool = True) -> "Backbone":
        """Frozen norms, and those of frozen layers, stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
                self.frozen_norm or (module.weight is not None and not module.weight.requires_grad)
            ):
                module.eval()
        return self

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Features C2 to C5, of strides 4, 8, 16 and 32."""
        features = self.body(images)
        features = [features[row] for row in self.rows]
        return [f.permute(0, 3, 1, 2) for f in features] if self.gives_nhwc else features


def _create_body(name: str, pretrained: bool) -> tuple[nn.Module, list[int]]:
    import timm

    tag = IMAGENET_TAGS.get(name, name) if pretrained else name
    # Swin transformers are made for one size of image unless told otherwise.
    options: dict[str, Any] = {"strict_img_size": False} if name.startswith("swin") else {}
    try:
        # A configuration may come in a file from anybody: timm would fetch "hf-hub:...", or read "local-dir:...".
        if not timm.is_model(name):
            raise AttributeError(name)
        body: Any = timm.create_model(name, features_only=True, pretrained=False, **options)
        reductions = body.feature_info.reduction()
        rows = [reductions.index(stride) for stride in STRIDES]
    except ValueError as e:
        raise UserError(f"backbone {name!r} has no features at strides {STRIDES}; choose one that has") from e
    except (RuntimeError, AttributeError, TypeError) as e:
        near = ", ".join(timm.list_models(f"*{name.split('.')[0][:8]}*")[:5]) or "resnet50"
        raise UserError(f"backbone {name!r} is not a timm model with features; near it: {near}") from e
    if not pretrained:
        return body, rows
    if not timm.is_model_pretrained(tag):
        raise UserError(f"timm has no ImageNet weights of {tag!r}; use --weights none, or another backbone")
    try:
        return timm.create_model(tag, features_only=True, pretrained=True, **options), rows
    except (OSError, RuntimeError) as e:
        raise UserError(
            f"ImageNet weights of {tag!r} could not be fetched ({type(e).__name__}): no model hub can be reached. "
            "Use --weights none, --weights PATH of a saved model, or fill the hub's cache on a connected machine."
        ) from e


def _fill(body: nn.Module, name: str, weights: BackboneWeights) -> str:
    """Load the weights of a file, all that the features need; says what was used and what was left over."""
    own = body.state_dict()
    # timm flattens most models: "stages.0.x" is then "stages_0.x".
    here = {n: n if n in own else n.replace(".", "_", 1) for n in weights.tensors}
    found = {here[n]: t for n, t in weights.tensors.items() if here[n] in own and own[here[n]].shape == t.shape}
    missing = [n for n in own if n not in found and not n.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"{weights.path}: not weights of the backbone {name}: {len(missing)} of its {len(own)} tensors are missing "
            f"or of another shape ({', '.join(missing[:3])}, …); name the backbone that they belong to with --backbone"
        )
    body.load_state_dict(found, strict=False)
    left = [n for n in weights.tensors if here[n] not in found]
    over = (
        f"{len(left)} left over ({', '.join(left[:4])}{', …' if len(left) > 4 else ''})"
        if left
        else "nothing left over"
    )
    return f"{len(found)} tensors of {name} from {weights.path}, {over}"


def _move_strides(body: nn.Module, name: str) -> None:
    from timm.models.resnet import Bottleneck

    blocks = [module for module in body.modules() if isinstance(module, Bottleneck)]
    if not blocks:
        raise UserError(f"backbone {name!r} has no bottleneck blocks; set stride_in_1x1 to false")
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)


def _freeze(module: nn.Module, stages: int, first_stage: list[str]) -> bool:
    """Freeze all before ``first_stage`` (its dotted name, split), and ``stages`` from it on; False if there is none."""
    children = dict(module.named_children())
    # timm flattens most models: stage "stages.0" is then the child "stages_0", else child "0" of "stages".
    found = [d for d in range(len(first_stage), 0, -1) if "_".join(first_stage[:d]) in children]
    if not found:
        return False
    inner = first_stage[found[0] :]
    nested = bool(inner) and inner[0].isdigit()
    at = list(children).index("_".join(first_stage[: found[0]]))
    for child in list(children.values())[: at if nested else at + stages]:
        child.requires_grad_(False)
    return not nested or _freeze(list(children.values())[at], stages, inner)
