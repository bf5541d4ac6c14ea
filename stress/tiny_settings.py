"""Dataset and settings so small that a detector trains in seconds."""

import shutil
from dataclasses import asdict
from pathlib import Path

import yaml

from libradet.data.synthesis.synthetic import synthesize
from libradet.models.zoo import make_config
from stress.common import TINY_CONFIG

HEAD_SETTINGS = {"mask": {"channels": 8, "num_convs": 1}, "retinanet": {"num_convs": 1}}
"""Settings of heads that the tiny settings, which are for two-stage box detectors, do not have."""


def tiny_settings(model: str, folder: Path) -> Path:
    """Write the tiny settings for a detector; return the file."""
    content = yaml.safe_load(TINY_CONFIG.read_text())
    parts = asdict(make_config(model))
    content["detector"] = {name: v for name, v in content["detector"].items() if parts.get(name) is not None}
    content["detector"] |= {name: fields for name, fields in HEAD_SETTINGS.items() if parts[name] is not None}
    path = folder / f"{model}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def make_tiny_dataset(folder: Path, train: int = 12) -> Path:
    """Synthesize a dataset of this many training images and four validation images unless it exists; return it."""
    if not (folder / "val.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        synthesize(folder, train=train, val=4, size=(144, 96), classes=2)
    return folder
