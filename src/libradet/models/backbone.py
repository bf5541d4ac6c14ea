"""Backbones: timm models with features at strides 4, 8, 16 and 32 (or two at 32), and plain ViTs with one of 16."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from libradet.errors import UserError
from libradet.models.backbone_body import create_body, load_weights, stage_rows
from libradet.models.config import BACKBONE_STRIDES, BackboneConfig
from libradet.models.load_pretrained import BackboneWeights
from libradet.models.lora import add_lora
from libradet.models.ops.fast_depthwise import replace_depthwise_convs
from libradet.models.ops.fuse_conv_bn import pair_convs_with_norms
from libradet.models.plain_vit import VIT_STAGES, freeze_plain_vit, plain_vit_depths

NUM_STAGES = len(BACKBONE_STRIDES)


class Backbone(nn.Module):
    """A timm feature extractor with frozen parts.

    Args:
        config: name of the timm model and its frozen parts.
        pretrained: load ImageNet weights through timm, or the weights of a file.

    Attributes:
        strides: of the features: 4 to 32, twice 32, or 16 alone for a plain ViT.
        channels: of the features.
        origin: summary of the loaded and ignored tensors of a file; empty without one.

    Raises:
        UserError: unknown name, no features that detectors need, or weights that cannot be downloaded or do not match.
    """

    def __init__(self, config: BackboneConfig, pretrained: bool | BackboneWeights = False) -> None:
        super().__init__()
        self.frozen, self.frozen_norm = config.frozen, config.frozen_norm
        self.body, self.rows, self.strides = create_body(config.name, pretrained is True, config.features)
        self.origin = ""
        if isinstance(pretrained, BackboneWeights):
            self.origin = load_weights(self.body, config.name, pretrained)
        info: Any = self.body.feature_info
        self.channels: list[int] = [info.channels()[row] for row in self.rows]
        self.outputs_nhwc = getattr(self.body, "output_fmt", "NCHW") == "NHWC"
        if config.lora is not None:
            add_lora(self.body, config.name, config.lora)
        self._freeze(config)
        if config.stride_in_1x1:
            _move_strides_to_1x1(self.body, config.name)
        for module in self.body.modules():
            if isinstance(module, _BatchNorm) and config.norm_eps is not None:
                module.eps = config.norm_eps
        pair_convs_with_norms(self.body)
        replace_depthwise_convs(self.body)
        self.train()

    @property
    def is_plain_vit(self) -> bool:
        """Whether there is one feature map, of stride 16."""
        return len(self.strides) == 1

    def train(self, mode: bool = True) -> "Backbone":
        """Set the mode; a frozen backbone, frozen norms, and norms of frozen layers stay in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.body.eval()
        for module in self.modules():
            if isinstance(module, _BatchNorm) and (
                self.frozen_norm or (module.weight is not None and not module.weight.requires_grad)
            ):
                module.eval()
        return self

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Return the features, finest first: C2 to C5, two of stride 32, or the one of a plain ViT."""
        if self.frozen and torch.is_grad_enabled():
            with torch.no_grad():
                features = self.body(images)
        else:
            features = self.body(images)
        features = [features[row] for row in self.rows]
        return [f.permute(0, 3, 1, 2) for f in features] if self.outputs_nhwc else features

    def _freeze(self, config: BackboneConfig) -> None:
        if config.frozen:
            self.body.requires_grad_(False)
        if not config.freeze_at:
            return
        if self.is_plain_vit:
            stages = VIT_STAGES
            freeze_plain_vit(self.body, config.freeze_at - 1)
        else:
            info: Any = self.body.feature_info
            first_stage = info.module_name()[stage_rows(self.body)[0]].split(".")
            stages = _freeze(self.body, config.freeze_at - 1, first_stage)
        if not stages:
            raise UserError(f"backbone {config.name!r} has no separate stem and stages to freeze; set freeze_at to 0")
        if config.freeze_at > stages + 1:
            raise UserError(
                f"backbone.freeze_at is {config.freeze_at}: {config.name} has a stem and {stages} stages, so it is at "
                f"most {stages + 1}"
            )
        if config.lora is not None and not any(p.requires_grad for p in self.body.parameters()):
            raise UserError(
                f"backbone.freeze_at is {config.freeze_at}, which freezes all adapters of backbone.lora: lower it, or "
                "set backbone.lora to null"
            )


def layer_depths(backbone: Backbone) -> dict[str, int]:
    """Return how many layers below the pyramid each parameter is, for layer-wise decay of the learning rate.

    Layers are the blocks of a plain ViT, else the stages: 1 in the last one, NUM_STAGES + 1 in the stem.

    Raises:
        UserError: see :func:`param_stage_ids`.
    """
    if backbone.is_plain_vit:
        return {f"body.{name}": depth for name, depth in plain_vit_depths(backbone.body).items()}
    return {name: NUM_STAGES + 1 - stage for name, stage in param_stage_ids(backbone).items()}


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
    ends = stage_rows(backbone.body)
    stage_of_feature = {name: sum(row <= i for row in ends) for i, name in enumerate(features)}
    stage, stage_ids, stages = NUM_STAGES, {}, set()
    for name, module in reversed(list(backbone.named_modules())):
        flat = f"{name.replace('.', '_').removeprefix('body_').removeprefix('model_')}_"
        feature = next((feature for feature in features if flat.startswith(feature)), None)
        if feature is not None:
            stage = stage_of_feature[feature]
            stages.add(stage)
        elif stage == 1 and ends[0] == 0:  # no feature precedes the first stage: what remains is the stem
            stage = 0
        stage_ids |= dict.fromkeys((f"{name}.{own}" for own, _ in module.named_parameters(recurse=False)), stage)
    if not stages.issuperset(range(1, NUM_STAGES + 1)):
        raise UserError(f"the backbone ({type(backbone.body).__name__}) has no separate stages: leave layer_decay out")
    return stage_ids


def _move_strides_to_1x1(body: nn.Module, name: str) -> None:
    from timm.models.resnet import Bottleneck

    blocks = [module for module in body.modules() if isinstance(module, Bottleneck)]
    if not blocks:
        raise UserError(f"backbone {name!r} has no bottleneck blocks; set stride_in_1x1 to false")
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)


def _freeze(module: nn.Module, stages: int, first_stage: list[str]) -> int:
    """Freeze the stem and ``stages`` stages.

    Args:
        first_stage: dotted name of the first stage, split.

    Returns:
        the number of stages there are; 0 if the module has no such child.
    """
    children = dict(module.named_children())
    # timm flattens most models: stage "stages.0" is then the child "stages_0", else child "0" of "stages".
    depths = [d for d in range(len(first_stage), 0, -1) if "_".join(first_stage[:d]) in children]
    if not depths:
        return 0
    inner = first_stage[depths[0] :]
    is_nested = bool(inner) and inner[0].isdigit()
    names = list(children)
    at = names.index("_".join(first_stage[: depths[0]]))
    for name in names[: at if is_nested else at + stages]:
        children[name].requires_grad_(False)
    if is_nested:
        return _freeze(children[names[at]], stages, inner)
    # Activations and the like may follow the last stage.
    return max(i for i, name in enumerate(names) if i == at or list(children[name].parameters())) - at + 1
