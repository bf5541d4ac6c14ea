"""Detectors as checkpoints that other toolboxes load."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from libradet.errors import UserError
from libradet.interop import mmdetection, torchvision_models
from libradet.interop.family import Family
from libradet.interop.rows import background_to_first
from libradet.models.config import LOSS_WEIGHTS
from libradet.models.detector import Detector
from libradet.utils.atomic_io import atomic_write

FAMILIES: dict[str, Family] = {"mmdet": mmdetection.FAMILY, "torchvision": torchvision_models.FAMILY}


# What decides on detections beside the weights, and is no part of them.
SETTINGS = (
    *("image", "backbone.stride_in_1x1", "backbone.norm_eps", "pyramid.extra_relu", "pyramid.balanced"),
    *("rpn.anchors", "rpn.test_proposals", "roi.align", "roi.box_std", "cascade.box_stds", "cascade.average"),
    *("mask.align", "dense.anchors", "dense.per_level", "dense.clip_last", "detections"),
)


def save_as(model: Detector, family: str, path: str | Path) -> None:
    """Write the weights as ``family`` ("mmdet" or "torchvision") has them; a file of that name is replaced.

    Raises:
        UserError: that toolbox has no such detector, or the file cannot be written.
    """
    state = to_foreign(model, family)
    names = tuple(model.class_names)
    content = {"meta": {"dataset_meta": {"classes": names}}, "state_dict": state} if family == "mmdet" else state
    with atomic_write(path) as partial:
        torch.save(content, partial)


def differences(model: Detector, family: str) -> list[str]:
    """Settings in which that toolbox's own detector, given these weights, would differ: ``name: here, there``."""
    known = FAMILIES[family]
    theirs = known.describe(known.normalize(to_foreign(model, family)), {})
    ours, theirs = (dict(_flatten(json.loads(json.dumps(asdict(c))))) for c in (model.config, theirs))
    found = [
        f"{name}: {value} here, {theirs.get(name)} there"
        for name, value in ours.items()
        if name.startswith(SETTINGS) and theirs.get(name) != value
    ]
    if family == "torchvision" and model.balance is not None:
        found.append("the balanced pyramid, by libradet.interop.torchvision.balance")
    return found


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def to_foreign(model: Detector, family: str) -> dict[str, Tensor]:
    """The tensors under the toolbox's names and in its order of classes."""
    if family not in FAMILIES:
        raise UserError(f"there is no --to {family}; choose from {', '.join(FAMILIES)}")
    layout = FAMILIES[family].layout(None, model.config)
    there = {ours: theirs for theirs, ours in layout.pairs}
    state: dict[str, Tensor] = {}
    for name, t in model.state_dict().items():
        if name.startswith(LOSS_WEIGHTS):
            continue
        layer, _, kind = name.rpartition(".")
        if layer not in there:
            raise UserError(f"{FAMILIES[family].name} has no place for {name!r} of this {model.config.model}")
        t = background_to_first(name, t) if layout.background_first else t
        state[f"{there[layer]}.{kind}"] = t.detach().cpu().contiguous()
    return state
