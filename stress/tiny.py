"""Settings so small that a detector trains in seconds."""

from dataclasses import asdict
from pathlib import Path

import yaml

from libradet.models.zoo import make_config
from stress.common import TINY

NARROW = {"mask": {"channels": 8, "convs": 1}, "dense": {"convs": 1}}
"""Fields of parts that the tiny settings, made for two-stage detectors of boxes, do not have."""


def tiny_settings(model: str, folder: Path) -> Path:
    """Write the tiny settings of the parts that a detector has, and narrow ones of those that only it has."""
    content = yaml.safe_load(TINY.read_text())
    parts = asdict(make_config(model))
    content["detector"] = {name: v for name, v in content["detector"].items() if parts.get(name) is not None}
    content["detector"] |= {name: fields for name, fields in NARROW.items() if parts[name] is not None}
    path = folder / f"{model}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path
