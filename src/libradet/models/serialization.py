"""Saved models: one .safetensors file of tensors, with the configuration as JSON in its header.

Nothing in a file is executed. torch is imported only where tensors are read or written.
"""

import json
import re
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from jsonargparse import ArgumentParser
from safetensors import SafetensorError, safe_open

from libradet.errors import UserError
from libradet.models.config import DetectorConfig
from libradet.utils.atomic_io import atomic_write
from libradet.utils.text import summarize_list

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from libradet.models.detector import Detector

FORMAT = "libradet-2"
"""Format of saved models; the number changes with the keys of the configuration and the names of tensors."""

_ANY_VERSION = re.compile(r"libradet-\d+")


def save_model(model: "Detector", path: str | Path) -> None:
    """Write weights and configuration to one file, which replaces a file of that name atomically.

    Missing folders are created.

    Raises:
        UserError: the file cannot be written, or the model is the result of ``optimize``.
    """
    if model.is_optimized:
        raise UserError(f"{path}: an optimized model cannot be saved, as its norms are fused; save the original")
    save_state_dict(model.state_dict(), model.config, path)


def save_state_dict(state: "dict[str, Tensor]", config: DetectorConfig, path: str | Path) -> None:
    """Write the state of a detector with this configuration, as :func:`save_model` does."""
    from safetensors.torch import save_file

    tensors = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    with atomic_write(path) as partial:
        save_file(tensors, partial, {"format": FORMAT, "config": json.dumps(asdict(config))})


def load_model(path: str | Path, device: "str | torch.device" = "cpu") -> "Detector":
    """Return the model of a file, in evaluation mode.

    Raises:
        UserError: no such file, not a saved model, or its tensors do not match its configuration.
    """
    from safetensors.torch import load_file

    from libradet.models.detector import Detector
    from libradet.models.random_init import without_random_init

    config = read_config(path)
    missing, unexpected = _compare_shapes(config, path)
    if missing or unexpected:
        raise UserError(
            f"{path}: its tensors do not match its configuration; missing: {summarize_list(missing, 3, 'none')}; "
            f"unexpected: {summarize_list(unexpected, 3, 'none')}"
        )
    with without_random_init():
        model = Detector(config)
    model.load_state_dict(load_file(path))
    return model.eval().to(device)


def read_config(path: str | Path) -> DetectorConfig:
    """Return the configuration of a saved model, without reading its tensors.

    Raises:
        UserError: no such file, not a saved model, or one of an earlier version.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError as e:
        raise UserError(f"{path}: no such file") from e
    except (SafetensorError, OSError) as e:
        raise UserError(f"{path}: not a readable .safetensors file ({e})") from e
    _check_format(metadata.get("format", ""), path)
    try:
        values = json.loads(metadata["config"])
    except (KeyError, ValueError) as e:
        raise UserError(f"{path}: the configuration in its header is corrupt ({e!r})") from e
    return parse_config(values, str(path))


def parse_config(values: Any, source: str) -> DetectorConfig:
    """Return a configuration from plain values, with the type of every field checked.

    Args:
        source: name of the file, which messages begin with.

    Raises:
        UserError: names the field.
    """
    if not isinstance(values, dict):
        raise UserError(f"{source}: its configuration is not a mapping but {str(values)[:40]!r}")
    if nulls := _forbidden_nulls(DetectorConfig, values):
        raise UserError(f"{source}: its configuration has null where a value is needed: {', '.join(nulls)}")
    try:
        parser = _parser()
        return parser.instantiate(parser.parse_object({"config": values}))["config"]
    except Exception as e:  # jsonargparse raises several types
        raise UserError(f"{source}: its configuration is not valid: {' '.join(str(e).split())[:300]}") from e


def is_model_format(name: object) -> bool:
    """Whether the format in a file's metadata is that of saved models, of this version or another."""
    return isinstance(name, str) and _ANY_VERSION.fullmatch(name) is not None


def _check_format(name: str, path: str | Path) -> None:
    if name == FORMAT:
        return
    if is_model_format(name):
        raise UserError(
            f"{path}: written by an earlier version of libradet (format {name}; this version reads {FORMAT}); "
            "train the model again, or convert the original checkpoint again with libradet convert"
        )
    raise UserError(f"{path}: not a model saved by libradet (no configuration in its header)")


def _compare_shapes(config: DetectorConfig, path: str | Path) -> tuple[list[str], list[str]]:
    """Return names of tensors that the detector has and the file lacks in that shape, and the reverse.

    The detector is built without weights: a small file can describe one that exceeds the memory.
    """
    import torch

    from libradet.models.detector import Detector
    from libradet.models.random_init import without_random_init

    try:
        with torch.device("meta"), without_random_init():
            own = {name: list(t.shape) for name, t in Detector(config).state_dict().items()}
    except RuntimeError as e:
        reason = str(e).splitlines()[0]
        raise UserError(f"{path}: a detector of its configuration is too large to build ({reason})") from e
    with safe_open(path, framework="pt") as file:
        stored = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    missing = [name for name, shape in own.items() if stored.get(name) != shape]
    return missing, [name for name, shape in stored.items() if own.get(name) != shape]


def _forbidden_nulls(config_type: type, values: dict, path: str = "") -> list[str]:
    """Return dotted names of fields that are None although their type forbids it.

    The parser would read such a None as "not set".
    """
    nulls, hints = [], get_type_hints(config_type)
    for name, value in values.items():
        options = get_args(hints.get(name)) or (hints.get(name),)
        nested = [option for option in options if isinstance(option, type) and is_dataclass(option)]
        if value is None and name in hints and type(None) not in options:
            nulls.append(path + name)
        elif isinstance(value, dict) and nested:
            nulls += _forbidden_nulls(nested[0], value, f"{path}{name}.")
    return nulls


@cache
def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", type=DetectorConfig)
    return parser
