"""Detectors as checkpoints that other toolboxes load."""

from pathlib import Path

import torch
from torch import Tensor

from libradet.errors import UserError
from libradet.interop import mmdetection, torchvision_models
from libradet.interop.family import Family
from libradet.interop.rows import background_to_first
from libradet.models.checkpoint import replacing
from libradet.models.detector import Detector

FAMILIES: dict[str, Family] = {"mmdet": mmdetection.FAMILY, "torchvision": torchvision_models.FAMILY}


def save_as(model: Detector, family: str, path: str | Path) -> None:
    """Write the weights as ``family`` ("mmdet" or "torchvision") has them; a file of that name is replaced.

    Raises:
        UserError: that toolbox has no such detector, or the file cannot be written.
    """
    state = to_foreign(model, family)
    names = tuple(model.class_names)
    content = {"meta": {"dataset_meta": {"classes": names}}, "state_dict": state} if family == "mmdet" else state
    with replacing(path) as partial:
        torch.save(content, partial)


def to_foreign(model: Detector, family: str) -> dict[str, Tensor]:
    """The tensors under the toolbox's names and in its order of classes."""
    if family not in FAMILIES:
        raise UserError(f"there is no --to {family}; choose from {', '.join(FAMILIES)}")
    layout = FAMILIES[family].layout(None, model.config)
    there = {ours: theirs for theirs, ours in layout.pairs}
    state: dict[str, Tensor] = {}
    for name, t in model.state_dict().items():
        layer, _, kind = name.rpartition(".")
        if layer not in there:
            raise UserError(f"{FAMILIES[family].name} has no place for {name!r} of this {model.config.model}")
        t = background_to_first(name, t) if layout.background_first else t
        state[f"{there[layer]}.{kind}"] = t.detach().cpu().contiguous()
    return state
