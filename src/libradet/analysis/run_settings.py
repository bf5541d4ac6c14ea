"""Settings of the training run that a model comes from."""

from pathlib import Path
from typing import Any

import yaml

from libradet.training.run_files import CONFIG


def run_config(model: str | Path) -> Path | None:
    """Return config.yaml beside a model's file; None if one of the two is absent, as for published weights."""
    path = Path(model)
    config = path.parent / CONFIG
    return config if path.is_file() and config.is_file() else None


def read_run_settings(model: str | Path) -> dict[str, Any] | None:
    """Return the settings in config.yaml beside a model's file; None if there is none, or it is no mapping."""
    config = run_config(model)
    if config is None:
        return None
    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return settings if isinstance(settings, dict) else None


def trained_tiles(settings: dict[str, Any] | None) -> list[float] | None:
    """Return size and overlap of the tiles that a model was trained on; None if it was not, or that is not known."""
    tiles = (settings or {}).get("tiles")
    is_pair = isinstance(tiles, list) and len(tiles) == 2 and all(isinstance(value, int | float) for value in tiles)
    return tiles if is_pair else None
