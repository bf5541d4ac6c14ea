"""Optimization of detectors for inference, compilation, and the choice of precision."""

import os
import shutil
import warnings
from copy import deepcopy
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from libradet.errors import UserError
from libradet.models.detector import Detector
from libradet.models.lora import merge_lora
from libradet.models.ops.fuse_conv_bn import fuse_conv_bn
from libradet.predictor import Predictor
from libradet.utils.devices import has_bf16_instructions
from libradet.utils.malloc import keep_freed_memory

Precision = Literal["fp32", "bf16"]

MIN_RECOMPILE_LIMIT = 64
"""More graphs than a run needs: two for each padded size and each padded number of objects."""

ATTENTION_BUFFERS = ("k_bias", "relative_coords_table")
"""Buffers that timm's EVA and Swin v2 combine with weights, so that both must have one type."""


def optimize(
    model: Detector,
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    compile: bool = False,
    *,
    in_place: bool = False,
) -> Detector:
    """Return a copy of a detector for faster inference: batch norms are fused and weights converted once.

    The copy can neither be trained nor saved. ``libradet evaluate`` and ``libradet predict`` optimize by themselves.

    Args:
        precision: "bf16" halves the digits of scores and is faster on GPUs and CPUs with native bfloat16; "auto" is
            "bf16" on these and "fp32" elsewhere.
        compile: compile it, see :func:`compile_in_place`.
        in_place: modify the detector itself in place of a copy, which saves time and memory.

    Raises:
        UserError: there is no compiler for the model's device.
    """
    if model.dense_engine is not None:
        raise UserError("this detector runs in an engine: pass the detector that it was made of")
    chosen, _ = choose_precision(precision, model.device.type)
    return _optimize_in_place(model if in_place else deepcopy(model), chosen, compile)


def _optimize_in_place(optimized: Detector, chosen: Precision, compile: bool) -> Detector:
    if emulated := describe_emulation(chosen, optimized.device.type):
        warnings.warn(f"{emulated}: use precision fp32, or auto", stacklevel=3)
    optimized.eval().requires_grad_(False)
    optimized.is_optimized = True
    merge_lora(optimized)
    fuse_conv_bn(optimized)
    if chosen == "bf16":
        _convert_to_bf16(optimized)
    optimized.to(memory_format=torch.channels_last)
    if compile:
        compile_in_place(optimized)
    if optimized.device.type == "cpu":
        keep_freed_memory()
    return optimized


def optimize_predictor(
    model: Predictor, precision: Literal["auto", "fp32", "bf16"] = "fp32", compile: bool = False
) -> Predictor:
    """Apply :func:`optimize` to a detector; return any other predictor as it is.

    The result is for use while the detector is not changed: it shares the weights that need no conversion.

    Raises:
        UserError: another precision or compilation is requested of a predictor that is not a detector.
    """
    if isinstance(model, Detector) and model.dense_engine is None:
        chosen, _ = choose_precision(precision, model.device.type)
        return _optimize_in_place(_copy_that_shares_weights(model), chosen, compile)
    if precision == "bf16" or compile:
        kind = "detector in an engine" if isinstance(model, Detector) else f"exported {model.name}"
        raise UserError(f"the precision of this {kind} is fixed: leave out precision and compilation")
    return model


def _copy_that_shares_weights(model: Detector) -> Detector:
    """Return a copy whose parameters are its own, in the memory of the original's, unless adapters are to be merged."""
    if any(hasattr(module, "lora_A") for module in model.modules()):
        return deepcopy(model)  # merged in place
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    return deepcopy(model, shared)


def compile_in_place(model: Detector) -> None:
    """Compile a detector with ``torch.compile``, one graph for each shape of a batch, when it first occurs.

    Weights keep their storage and names. Data loaders yield few shapes, so only the first batches are slow.

    Raises:
        UserError: there is no compiler for the model's device.
    """
    if model.device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise UserError(
            "--compile needs a C++ compiler on a CPU, and neither g++ nor clang++ is installed: install one"
        )
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MIN_RECOMPILE_LIMIT)
    model.compile(dynamic=False)


def choose_precision(requested: Literal["auto", "fp32", "bf16"], device: str) -> tuple[Precision, str]:
    """Return the precision to compute in, and the reason in a few words.

    The instruction set decides, not a timing, so the result is the same on a busy machine.

    Args:
        device: type of the device, such as "cpu" or "cuda".
    """
    if requested != "auto":
        emulated = describe_emulation(requested, device)
        return requested, f"as requested{emulated and f', but {emulated}'}"
    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "the GPU supports it"
        return "fp32", "the GPU has no native bf16"
    if device != "cpu":
        return "fp32", f"bf16 is untested on {device}"
    if has_bf16_instructions():
        return "bf16", "the CPU supports it"
    return "fp32", "this CPU would emulate bf16, which is slower"


def describe_emulation(precision: str, device: str) -> str:
    """Return that a device emulates a precision, which is slow, as a clause; nothing if it does not.

    Args:
        device: type of the device, such as "cpu" or "cuda".
    """
    if precision != "bf16":
        return ""
    if device == "cpu" and not has_bf16_instructions():
        return "this CPU emulates bf16, which is slower than fp32"
    if device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "this GPU emulates bf16, which is slower than fp32"
    return ""


def _convert_to_bf16(model: Detector) -> None:
    """Convert weights to bfloat16, except those of batch norms and the parameters that decode boxes."""
    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.GroupNorm, nn.LayerNorm)
    heads = (m for m in model.modules() if isinstance(m, layers))
    backbone = (m for m in model.backbone.modules() if not isinstance(m, _BatchNorm))
    for module in (*heads, *backbone):
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(torch.bfloat16)
        for name, buffer in list(module.named_buffers(recurse=False)):
            if name in ATTENTION_BUFFERS:
                setattr(module, name, buffer.to(torch.bfloat16))
