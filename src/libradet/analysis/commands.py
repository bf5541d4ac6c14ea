"""The command line that trains a model again with a switch turned."""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from libradet.models.config import DetectorConfig
from libradet.models.zoo import MODELS, make_config

_OF_DATA_OR_WEIGHTS = ("model", "num_classes", "class_names", "category_ids", "backbone", "image.mean", "image.std")
_RUN_CONFIG = "config.yaml"


def train_command(model: str | Path, config: DetectorConfig, data: str | Path, options: Sequence[str], out: str) -> str:
    """``libradet train`` as the model was trained, as far as is known, with ``options`` added.

    A run's own config.yaml is used where it lies beside the model; elsewhere what differs from the zoo's entry is
    written out, and weights are left to the reader.
    """
    run = Path(model).parent / _RUN_CONFIG
    if run.is_file():
        words = ["--config", str(run)]
    else:
        name = config.model if config.model in MODELS else "faster_rcnn"
        words = [
            "--model",
            name,
            "--backbone",
            config.backbone.name,
            "--weights",
            "imagenet",
            *_differences(config, name),
        ]
    words += ["--data", str(data), *(word for option in options for word in option.split(" ", 1)), "--out", out]
    lines = [" ".join(map(shlex.quote, pair)) for pair in zip(words[::2], words[1::2], strict=True)]
    return " \\\n  ".join(["libradet train " + lines[0], *lines[1:]])


def _differences(config: DetectorConfig, name: str) -> list[str]:
    usual = dict(_flatten(asdict(make_config(name, config.num_classes))))
    words: list[str] = []
    for key, value in _flatten(asdict(config)):
        if not key.startswith(_OF_DATA_OR_WEIGHTS) and usual.get(key, ...) != value:
            words += [f"--detector.{key}", value if isinstance(value, str) else json.dumps(value)]
    return words


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
