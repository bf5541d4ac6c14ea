"""Low-rank adapters on the attention layers of ViT and Swin backbones (LoRA; Hu et al., ICLR 2022), through ``peft``.

``peft`` is the extra ``lora``; it is imported where a configuration has adapters.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from libradet.errors import UserError
from libradet.models.config import LoraConfig

QUERIES = ("qkv", "q_proj")
"""Names of timm's query layers, which an attention module has one of."""

LAYERS = ("qkv", "q_proj", "k_proj", "v_proj", "proj")
"""Names of the adapted layers in an attention module."""

BASE = ".base_layer."
ADAPTERS = (".lora_A.", ".lora_B.")


def add_lora(body: nn.Module, name: str, config: LoraConfig) -> None:
    """Freeze a backbone and add trained adapters to its attention layers, in place; they add nothing at first.

    Args:
        body: feature extractor with its weights loaded.
        name: of the timm model.

    Raises:
        UserError: no attention layers of a ViT or Swin transformer, dropout where there can be none, or no ``peft``.
    """
    layers = _attention_layers(body)
    if not layers:
        raise UserError(f"backbone.lora: {name} has no attention layers of a ViT or Swin transformer; set it to null")
    if config.dropout and _applies_weights_itself(body):
        raise UserError(f"backbone.lora.dropout is {config.dropout}: it must be 0 for {name}")
    try:
        import peft
    except ImportError as e:
        raise UserError(
            "backbone.lora needs peft: pip install '.[lora]' in the folder of libradet, or set it to null"
        ) from e

    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=layers
    )
    settings._register_custom_module({nn.Linear: _adapted_linear()})
    body.requires_grad_(False)
    peft.inject_adapter_in_model(settings, body)


@torch.no_grad()
def merge_lora(module: nn.Module) -> None:
    """Replace, in place, every adapted layer with one layer of the sum of its weights; do nothing without adapters."""
    for name, child in module.named_children():
        if hasattr(child, "lora_A"):
            layer: Any = child
            layer.merge()
            setattr(module, name, layer.get_base_layer())
        else:
            merge_lora(child)


def names_without_lora(names: Iterable[str]) -> dict[str, str]:
    """Return names of tensors by those that they have in the detector without adapters; adapters are left out."""
    return {name.replace(BASE, "."): name for name in names if not any(part in name for part in ADAPTERS)}


def _attention_layers(body: nn.Module) -> list[str]:
    names = []
    for prefix, module in body.named_modules():
        linear = [name for name, child in module.named_children() if name in LAYERS and isinstance(child, nn.Linear)]
        if prefix.rpartition(".")[2] == "attn" and not set(QUERIES).isdisjoint(linear):
            names += [f"{prefix}.{name}" for name in linear]
    return names


def _applies_weights_itself(body: nn.Module) -> bool:
    """Return whether attention multiplies by ``qkv.weight`` itself, to add biases of its own.

    Adapters of such layers have no input of their own that dropout could be applied to.
    """
    return any(
        getattr(module, "qkv", None) is not None and getattr(module, "q_bias", None) is not None
        for module in body.modules()
    )


@cache
def _adapted_linear() -> type[nn.Module]:
    from peft.tuners.lora import Linear

    class AdaptedLinear(Linear):
        """Adapted layer whose ``weight`` includes the adapters, for attention that does not call the layer."""

        @property
        def weight(self) -> Tensor:
            """Weights that the layer computes with."""
            weight: Any = self.get_base_layer().weight
            return weight if self.merged else weight + self.get_delta_weight(self.active_adapters[0])

    return AdaptedLinear
