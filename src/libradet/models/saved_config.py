"""The configuration of a saved model, which is JSON in the header of its file."""

import json
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from jsonargparse import ArgumentParser
from safetensors import SafetensorError, safe_open

from libradet.errors import UserError
from libradet.models.config import DetectorConfig

FORMAT = "libradet-1"


def read_config(path: str | Path) -> DetectorConfig:
    """The configuration of the model in ``path``, without reading its tensors."""
    try:
        with safe_open(path, framework="numpy") as f:
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
        raise UserError(f"{source}: its configuration has null where a value is needed: {', '.join(nulls)}")
    try:
        parser = _parser()
        return parser.instantiate(parser.parse_object({"config": values}))["config"]
    except Exception as e:  # jsonargparse raises several kinds
        raise UserError(f"{source}: its configuration cannot be used: {' '.join(str(e).split())[:300]}") from e


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
