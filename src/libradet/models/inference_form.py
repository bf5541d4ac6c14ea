"""A detector in the form in which it finds objects fastest."""

from copy import deepcopy
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from libradet.errors import UserError
from libradet.inference.finder import Finder
from libradet.models.backbones import ConvNorm
from libradet.models.compiling import compile_in_place
from libradet.models.detector import Detector
from libradet.models.folding import can_fold, fixed_scale
from libradet.models.precision import choose_precision


def optimize(model: Detector, precision: Literal["auto", "32", "bf16"] = "32", compiled: bool = False) -> Detector:
    """A copy of a detector that finds the same, faster: norms are folded and weights converted once, not at every call.

    It learns nothing and is not for saving. ``libradet evaluate`` and ``libradet predict`` make one by themselves.

    Args:
        precision: "bf16" has half the digits of a score and is faster on GPUs and CPUs that compute in it; "auto"
            takes it there, and "32" elsewhere.
        compiled: as in :func:`libradet.models.compiling.compile_in_place`.

    Raises:
        UserError: it cannot be compiled here.
    """
    chosen, _ = choose_precision(precision, model.device.type)
    form = deepcopy(model).eval().requires_grad_(False)
    form.for_inference = True
    fold_norms(form)
    if chosen == "bf16":
        _halve(form)
    form.to(memory_format=torch.channels_last)
    if compiled:
        compile_in_place(form)
    return form


def optimize_finder(model: Finder, precision: Literal["auto", "32", "bf16"] = "32", compiled: bool = False) -> Finder:
    """:func:`optimize` for a detector; anything else is what it is. Raises UserError if it is asked to be otherwise."""
    if isinstance(model, Detector):
        return optimize(model, precision, compiled)
    if precision == "bf16" or compiled:
        raise UserError(f"this {model.name} computes as it was exported: leave out precision and compilation")
    return model


@torch.no_grad()
def fold_norms(module: nn.Module) -> None:
    """Replace, in place, every convolution whose norm has fixed statistics with the one convolution that they are."""
    from timm.layers import BatchNormAct2d

    for name, child in module.named_children():
        if not isinstance(child, ConvNorm):
            fold_norms(child)
        elif (fixed := fixed_scale(child.conv, child.norm)) is not None:
            setattr(module, name, _scaled(child.conv, *fixed))
    # timm's batch norms that hold an activation, too, also behind its convolutions that pad as TensorFlow does.
    for (name, conv), (next_name, norm) in pairwise(list(module.named_children())):
        if not (isinstance(conv, nn.Conv2d) and isinstance(norm, BatchNormAct2d) and can_fold(conv, norm)):
            continue
        if (fixed := fixed_scale(conv, norm)) is not None:
            setattr(module, name, _scaled(conv, *fixed))
            setattr(module, next_name, nn.Sequential(norm.drop, norm.act))


def _scaled(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> nn.Conv2d:
    layer = deepcopy(conv)
    layer.weight, layer.bias = (nn.Parameter(t, requires_grad=False) for t in (conv.weight * scale, shift))
    return layer


def _halve(form: Detector) -> None:
    """Weights in bf16, but for batch norms, and for what turns numbers into boxes."""
    heads = (m for m in form.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.GroupNorm))
    inside = (m for m in form.backbone.modules() if not isinstance(m, _BatchNorm))
    for module in (*heads, *inside):
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(torch.bfloat16)
