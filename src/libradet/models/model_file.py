"""A trained model is one .safetensors file: tensors, and its configuration as JSON in the header."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from libradet.errors import UserError
from libradet.models.config import DetectorConfig
from libradet.models.detector import Detector
from libradet.models.saved_config import FORMAT, read_config
from libradet.utils.atomic_io import atomic_write


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
    with atomic_write(path) as partial:
        save_file(tensors, partial, {"format": FORMAT, "config": json.dumps(asdict(config))})


def load_model(path: str | Path, device: str | torch.device = "cpu") -> Detector:
    """The model in ``path``, in evaluation mode. Nothing in the file is executed.

    Raises:
        UserError: no such file, not one of ours, or its tensors do not fit its configuration.
    """
    config = read_config(path)
    missing, unexpected = _unfit(config, path)
    if missing or unexpected:
        raise UserError(
            f"{path}: does not fit its own configuration; missing: {_some(missing)}; surplus: {_some(unexpected)}"
        )
    model = Detector(config)
    model.load_state_dict(load_file(path))
    return model.eval().to(device)


def _unfit(config: DetectorConfig, path: str | Path) -> tuple[list[str], list[str]]:
    """Tensors of such a detector that the file does not have in that shape, and the reverse.

    Made without weights: what a small file describes may be larger than all memory.
    """
    try:
        with torch.device("meta"):
            own = {name: list(t.shape) for name, t in Detector(config).state_dict().items()}
    except RuntimeError as e:
        raise UserError(f"{path}: no detector is as large as its configuration says ({str(e).splitlines()[0]})") from e
    with safe_open(path, framework="pt") as file:
        there = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    missing = [name for name, shape in own.items() if there.get(name) != shape]
    return missing, [name for name, shape in there.items() if own.get(name) != shape]


def _some(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) + more) or "none"
