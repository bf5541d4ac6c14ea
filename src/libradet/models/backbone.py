"""Backbones: timm models with features at strides 4, 8, 16 and 32."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from libradet.errors import UserError
from libradet.models.config import BackboneConfig
from libradet.models.load_pretrained import IMAGENET_TAGS, BackboneWeights
from libradet.models.ops.fast_depthwise import replace_depthwise_convs
from libradet.models.ops.fuse_conv_bn import pair_convs_with_norms
from libradet.utils.text import summarize_list

STRIDES = (4, 8, 16, 32)
NUM_STAGES = len(STRIDES)


class Backbone(nn.Module):
    """A timm feature extractor with frozen parts.

    Args:
        config: name of the timm model and its frozen parts.
        pretrained: load ImageNet weights through timm, or the weights of a file.

    Attributes:
        channels: of C2 to C5.
        origin: summary of the loaded and ignored tensors of a file; empty without one.

    Raises:
        UserError: unknown name, no features at strides 4 to 32, or weights that cannot be downloaded or do not match.
    """

    def __init__(self, config: BackboneConfig, pretrained: bool | BackboneWeights = False) -> None:
        super().__init__()
        self.frozen_norm = config.frozen_norm
        self.body, self.rows = _create_body(config.name, pretrained is True)
        self.origin = ""
        if isinstance(pretrained, BackboneWeights):
            self.origin = _load_weights(self.body, config.name, pretrained)
        info: Any = self.body.feature_info
        self.channels: list[int] = [info.channels()[row] for row in self.rows]
        self.outputs_nhwc = getattr(self.body, "output_fmt", "NCHW") == "NHWC"
        first_stage = info.module_name()[self.rows[0]].split(".")
        if config.freeze_at and not _freeze(self.body, config.freeze_at - 1, first_stage):
            raise UserError(f"backbone {config.name!r} has no separate stem and stages to freeze; set freeze_at to 0")
        if config.stride_in_1x1:
            _move_strides_to_1x1(self.body, config.name)
        for module in self.body.modules():
            if isinstance(module, _BatchNorm) and config.norm_eps is not None:
                module.eps = config.norm_eps
        pair_convs_with_norms(self.body)
        replace_depthwise_convs(self.body)
        self.train()

    def train(self, mode: bool = True) -> "Backbone":
        """Set the mode; frozen norms, and norms of frozen layers, stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm) and (
                self.frozen_norm or (module.weight is not None and not module.weight.requires_grad)
            ):
                module.eval()
        return self

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Return the features C2 to C5, of strides 4, 8, 16 and 32."""
        features = self.body(images)
        features = [features[row] for row in self.rows]
        return [f.permute(0, 3, 1, 2) for f in features] if self.outputs_nhwc else features


def param_stage_ids(backbone: Backbone) -> dict[str, int]:
    """Return the stage of each parameter: 0 for the stem, 1 to NUM_STAGES for the stages that end in C2 to C5.

    timm groups layers of whole models only (``group_matcher``); feature extractors lack it and have other names. Here a
    stage is what lies between two features: all modules after the previous one, up to the module that outputs the
    feature.

    Raises:
        UserError: the backbone's features do not come from separate modules.
    """
    info: Any = backbone.body.feature_info
    features = [f"{name.replace('.', '_')}_" for name in info.module_name()]  # as timm flattens them
    stage_of_feature = {name: sum(row <= i for row in backbone.rows) for i, name in enumerate(features)}
    stage, stage_ids, stages = NUM_STAGES, {}, set()
    for name, module in reversed(list(backbone.named_modules())):
        flat = f"{name.replace('.', '_').removeprefix('body_').removeprefix('model_')}_"
        feature = next((feature for feature in features if flat.startswith(feature)), None)
        if feature is not None:
            stage = stage_of_feature[feature]
            stages.add(stage)
        elif stage == 1 and backbone.rows[0] == 0:  # no feature precedes the first stage: what remains is the stem
            stage = 0
        stage_ids |= dict.fromkeys((f"{name}.{own}" for own, _ in module.named_parameters(recurse=False)), stage)
    if not stages.issuperset(range(1, NUM_STAGES + 1)):
        raise UserError(f"the backbone ({type(backbone.body).__name__}) has no separate stages: leave layer_decay out")
    return stage_ids


def _create_body(name: str, pretrained: bool) -> tuple[nn.Module, list[int]]:
    """Return the timm feature extractor and the indices of its features C2 to C5."""
    import timm

    # Swin transformers accept one image size only, unless this is set.
    options: dict[str, Any] = {"strict_img_size": False} if name.startswith("swin") else {}
    try:
        # A configuration may come from an untrusted file: timm would download "hf-hub:..." or read "local-dir:...".
        if not timm.is_model(name):
            raise AttributeError(name)
        body: Any = timm.create_model(name, features_only=True, pretrained=False, **options)
        reductions = body.feature_info.reduction()
        rows = [reductions.index(stride) for stride in STRIDES]
    except ValueError as e:
        raise UserError(f"backbone {name!r} has no features at strides {STRIDES}; choose one that has") from e
    except (RuntimeError, AttributeError, TypeError) as e:
        similar = ", ".join(timm.list_models(f"*{name.split('.')[0][:8]}*")[:5]) or "resnet50"
        raise UserError(f"backbone {name!r} is not a timm model with features; similar names: {similar}") from e
    return (_create_pretrained_body(name, options) if pretrained else body), rows


def _create_pretrained_body(name: str, options: dict[str, Any]) -> nn.Module:
    import timm

    tag = IMAGENET_TAGS.get(name, name)
    if not timm.is_model_pretrained(tag):
        raise UserError(f"timm has no ImageNet weights of {tag!r}; use --weights none, or another backbone")
    try:
        return timm.create_model(tag, features_only=True, pretrained=True, **options)
    except (OSError, RuntimeError) as e:
        raise UserError(
            f"ImageNet weights of {tag!r} could not be downloaded ({type(e).__name__}): no model hub can be reached. "
            "Use --weights none, --weights PATH of a saved model or of the backbone's weights, or fill the hub's cache "
            "on a connected machine"
        ) from e


def _load_weights(body: nn.Module, name: str, weights: BackboneWeights) -> str:
    """Load all tensors that the features need; return a summary of the loaded and the ignored tensors."""
    own = body.state_dict()
    # timm flattens most models: "stages.0.x" is then "stages_0.x".
    own_names = {n: n if n in own else n.replace(".", "_", 1) for n in weights.tensors}
    matching = {
        own_names[n]: t
        for n, t in weights.tensors.items()
        if own_names[n] in own and own[own_names[n]].shape == t.shape
    }
    missing = [n for n in own if n not in matching and not n.endswith("num_batches_tracked")]
    if missing:
        raise UserError(
            f"{weights.path}: not weights of the backbone {name}: {len(missing)} of its {len(own)} tensors are missing "
            f"or of another shape ({summarize_list(missing, 3)}); set --backbone to the model that they belong to"
        )
    body.load_state_dict(matching, strict=False)
    ignored = [n for n in weights.tensors if own_names[n] not in matching]
    summary = f"{len(ignored)} ignored ({summarize_list(ignored, 4)})" if ignored else "none ignored"
    return f"{len(matching)} tensors of {name} from {weights.path}, {summary}"


def _move_strides_to_1x1(body: nn.Module, name: str) -> None:
    from timm.models.resnet import Bottleneck

    blocks = [module for module in body.modules() if isinstance(module, Bottleneck)]
    if not blocks:
        raise UserError(f"backbone {name!r} has no bottleneck blocks; set stride_in_1x1 to false")
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)


def _freeze(module: nn.Module, stages: int, first_stage: list[str]) -> bool:
    """Freeze the stem and ``stages`` stages.

    Args:
        first_stage: dotted name of the first stage, split.

    Returns:
        False if the module has no such child.
    """
    children = dict(module.named_children())
    # timm flattens most models: stage "stages.0" is then the child "stages_0", else child "0" of "stages".
    depths = [d for d in range(len(first_stage), 0, -1) if "_".join(first_stage[:d]) in children]
    if not depths:
        return False
    inner = first_stage[depths[0] :]
    is_nested = bool(inner) and inner[0].isdigit()
    at = list(children).index("_".join(first_stage[: depths[0]]))
    for child in list(children.values())[: at if is_nested else at + stages]:
        child.requires_grad_(False)
    return not is_nested or _freeze(list(children.values())[at], stages, inner)
