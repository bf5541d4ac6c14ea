"""Saving of detectors as checkpoints that other toolboxes load."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from libradet.errors import UserError
from libradet.interop import mmdetection, torchvision_models
from libradet.interop.checkpoint_format import CheckpointFormat
from libradet.interop.class_order import background_to_first
from libradet.models.class_balance import uses_sigmoid
from libradet.models.config import CLASS_BALANCE, LOSS_WEIGHTS, DetectorConfig
from libradet.models.detector import Detector
from libradet.utils.atomic_io import atomic_write
from libradet.utils.nested import flatten

WRITABLE_FORMATS: dict[str, CheckpointFormat] = {"mmdet": mmdetection.FORMAT, "torchvision": torchvision_models.FORMAT}

INFERENCE_SETTINGS = (
    *("image", "backbone.stride_in_1x1", "backbone.norm_eps", "pyramid.num_levels", "pyramid.extra_relu"),
    *("pyramid.balanced", "rpn.anchors", "rpn.test_proposals", "roi.align", "roi.box_std", "roi.test_proposals"),
    *("cascade.box_stds", "cascade.average", "mask.align", "retinanet.anchors", "retinanet.topk_candidates"),
    *("retinanet.clip_last", "detections"),
)
"""Settings that change detections and are not part of a state dict."""


def save_checkpoint_as(model: Detector, toolbox: str, path: str | Path) -> None:
    """Write the weights as a checkpoint of ``toolbox`` ("mmdet" or "torchvision"); an existing file is replaced.

    Raises:
        UserError: the toolbox does not have such a detector, or the file cannot be written.
    """
    state = to_foreign_state_dict(model, toolbox)
    # Unknown names stay unknown: those of a file count as the classes of its training.
    has_names = model.config.is_proposal_model or bool(model.config.class_names)
    names = tuple(model.class_names) if has_names else ()
    content = {"meta": {"dataset_meta": {"classes": names}}, "state_dict": state} if toolbox == "mmdet" else state
    with atomic_write(path) as partial:
        torch.save(content, partial)


def to_foreign_state_dict(model: Detector, toolbox: str) -> dict[str, Tensor]:
    """Return the state dict with the toolbox's names and order of classes.

    Raises:
        UserError: the toolbox is not supported, or does not have such a detector or its scores.
    """
    if toolbox not in WRITABLE_FORMATS:
        raise UserError(f"--to {toolbox} is not supported; choose from {', '.join(WRITABLE_FORMATS)}")
    checkpoint_format = WRITABLE_FORMATS[toolbox]
    if model.config.roi is not None and uses_sigmoid(model.config.roi.class_balance):
        raise UserError(
            f"{checkpoint_format.name} scores boxes by softmax, this {model.config.model} by sigmoid "
            "(roi.class_balance.type eql_v2), so its detections would differ there: export it instead"
        )
    layout = checkpoint_format.layout(None, model.config)
    their_layers = {ours: theirs for theirs, ours in layout.key_map}
    state: dict[str, Tensor] = {}
    for name, t in model.state_dict().items():
        if name.startswith(LOSS_WEIGHTS) or CLASS_BALANCE in name:
            continue
        layer, _, parameter = name.rpartition(".")
        if layer not in their_layers:
            raise UserError(f"{checkpoint_format.name} has no layer for {name!r} of this {model.config.model}")
        t = background_to_first(name, t) if layout.background_first else t
        state[f"{their_layers[layer]}.{parameter}"] = t.detach().cpu().contiguous()
    return state


def config_differences(model: Detector, toolbox: str) -> list[str]:
    """Return the settings in which the toolbox's detector differs by default: ``name: ours here, theirs there``.

    They are not part of a state dict and have to be set in the toolbox for equal detections.

    Raises:
        UserError: the toolbox does not have such a detector.
    """
    theirs = _flat_config(_their_config(model, toolbox))
    unused = "roi.test_proposals" if model.config.rpn is not None else None  # a limit of precomputed ones
    differences = [
        f"{name}: {value} here, {theirs.get(name)} there"
        for name, value in _flat_config(model.config).items()
        if name.startswith(INFERENCE_SETTINGS) and name != unused and theirs.get(name) != value
    ]
    if toolbox == "torchvision" and model.balance is not None:
        differences.append("the balanced pyramid, by libradet.interop.torchvision.balance")
    return differences


def _their_config(model: Detector, toolbox: str) -> DetectorConfig:
    """Return the configuration that the toolbox's detector with these weights has by default."""
    checkpoint_format, own = WRITABLE_FORMATS[toolbox], model.config
    state = checkpoint_format.normalize_keys(to_foreign_state_dict(model, toolbox))
    refusal = f"{checkpoint_format.name} has no such {own.model}"
    try:
        theirs = checkpoint_format.infer_config(state, {})
    except UserError as error:
        raise UserError(f"{refusal}: {error}") from error
    except KeyError as error:
        raise UserError(f"{refusal}: it has no {error}") from error
    for part in ("rpn", "roi", "cascade", "mask", "retinanet"):
        if (getattr(own, part) is None) != (getattr(theirs, part) is None):
            raise UserError(f"{refusal}, {'without' if getattr(own, part) is None else 'with'} {part}")
    return theirs


def _flat_config(config: Any) -> dict[str, Any]:
    return dict(flatten(json.loads(json.dumps(asdict(config)))))
