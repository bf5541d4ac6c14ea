"""A trained model is one .safetensors file: tensors, and its configuration as JSON in the header."""

import json
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from jsonargparse import ArgumentParser
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from libradet.errors import UserError
from libradet.files import replacing
from libradet.models.config import DetectorConfig
from libradet.models.detector import Detector

FORMAT = "libradet-1"


def save_model(model: Detector, path: str | Path) -> None:
    """Write weights and configuration to one file; a file of that name is replaced at once or not at all.

    Folders on the way to it are made. Raises UserError if it cannot be written, or the model was made by optimize.
    """
    if model.for_inference:
        raise UserError(f"{path}: save the detector that this inference form was made of; its norms are folded")
    write_model(model.state_dict(), model.config, path)


def write_model(state: dict[str, Tensor], config: DetectorConfig, path: str | Path) -> None:
    """Write the state of a detector of this configuration, as :func:`save_model` does."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    with replacing(path) as partial:
        save_file(tensors, partial, {"format": FORMAT, "config": json.dumps(asdict(config))})


def load_model(path: str | Path, device: str | torch.device = "cpu") -> Detector:
    """The model in ``path``, in evaluation mode. Nothing in the file is executed.

    Raises:
        UserError: no such file, not one of ours, or its tensors do not fit its configuration.
    """
    model = Detector(read_config(path))
    missing, unexpected = _load(model, path)
    if missing or unexpected:
        raise UserError(
            f"{path}: does not fit its own configuration; missing: {_some(missing)}; surplus: {_some(unexpected)}"
        )
    return model.eval().to(device)


def read_config(path: str | Path) -> DetectorConfig:
    """The configuration of the model in ``path``, without reading its tensors."""
    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
    except FileNotFoundError as e:
        raise UserError(f"{path}: no such file") from e
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path}: not a readable .safetensors file ({e})") from e
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path}: not a model saved by libradet (no configuration in its header)")
    try:
        values = json.loads(metadata["config"])
    except (KeyError, ValueError) as e:
        raise UserError(f"{path}: the configuration in its header is damaged ({e!r})") from e
    return parse_config(values, str(path))


def parse_config(values: Any, source: str) -> DetectorConfig:
    """A configuration from plain values, every field checked. Raises UserError that names what is wrong."""
    if not isinstance(values, dict):
        raise UserError(f"{source}: its configuration is not a tree of fields but {str(values)[:40]!r}")
    if nulls := _forbidden_nulls(DetectorConfig, values):
        raise UserError(f"{source}: its configuration has null where a value is needed: {_some(nulls)}")
    try:
        parser = _parser()
        return parser.instantiate(parser.parse_object({"config": values}))["config"]
    except Exception as e:  # jsonargparse raises several kinds
        raise UserError(f"{source}: its configuration cannot be used: {e}") from e


def _forbidden_nulls(kind: type, values: dict, path: str = "") -> list[str]:
    """Fields that are None although their type does not say so, which the parser takes for "not given"."""
    found, hints = [], get_type_hints(kind)
    for name, value in values.items():
        options = get_args(hints.get(name)) or (hints.get(name),)
        nested = [option for option in options if isinstance(option, type) and is_dataclass(option)]
        if value is None and name in hints and type(None) not in options:
            found.append(path + name)
        elif isinstance(value, dict) and nested:
            found += _forbidden_nulls(nested[0], value, f"{path}{name}.")
    return found


@cache
def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", type=DetectorConfig)
    return parser


def _load(model: Detector, path: str | Path) -> tuple[list[str], list[str]]:
    own, tensors = model.state_dict(), load_file(path)
    fitting = {name: t for name, t in tensors.items() if name in own and own[name].shape == t.shape}
    model.load_state_dict(fitting, strict=False)
    return [n for n in own if n not in fitting], [n for n in tensors if n not in fitting]


def _some(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) + more) or "none"
