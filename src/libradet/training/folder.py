"""The run folder: its name, and the configuration in it."""

import os
from dataclasses import asdict, replace
from pathlib import Path

import yaml

from libradet.errors import UserError
from libradet.files import replacing
from libradet.models.config import DetectorConfig
from libradet.training.settings import TrainConfig

CONFIG, LAST, BEST = "config.yaml", "last.ckpt", "best.safetensors"


def is_first_process() -> bool:
    """Whether this process, of all that train together, is the one that speaks and writes."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def choose_folder(config: TrainConfig, backbone: str) -> Path:
    """Where the run goes: ``out``, or the next free runs/MODEL-BACKBONE.

    The first process decides; the others write nothing, and find the folder in use already.

    Raises:
        UserError: ``out`` holds a run already.
    """
    if config.out is not None:
        folder = Path(config.out)
        if is_first_process() and (folder / CONFIG).exists():
            raise UserError(
                f"{folder} holds a run already: continue it with --resume {folder}, choose another --out, or delete it"
            )
        return folder
    name = f"{config.model}-{backbone.split('.')[0]}"
    numbered = (Path("runs", name if i == 1 else f"{name}-{i}") for i in range(1, 10**6))
    return next(folder for folder in numbered if not folder.exists())


def write_config(folder: Path, config: TrainConfig, detector: DetectorConfig) -> None:
    """Write all fields, so that the file alone repeats the run; where it goes is left to the next run."""
    tree = asdict(replace(config, out=None)) | {"detector": asdict(detector)}
    with replacing(folder / CONFIG) as partial:
        partial.write_text(yaml.safe_dump(_plain(tree), sort_keys=False, allow_unicode=True))


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
