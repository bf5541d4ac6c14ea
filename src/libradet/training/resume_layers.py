"""Compare the detector and the optimizer of a resumed run with its checkpoint, before anything is written."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from libradet.errors import UserError
from libradet.models.detector import Detector
from libradet.training.config import TrainConfig
from libradet.training.optim import parameter_groups
from libradet.training.resume import read_checkpoint
from libradet.utils.nested import flatten, tuples_to_lists
from libradet.utils.text import summarize_list

PREFIX = "detector."
"""Of the detector's tensors in a checkpoint."""


def check_layers(path: Path, model: Detector, config: TrainConfig, started: Mapping[str, Any]) -> None:
    """Refuse to resume a checkpoint with other layers, another choice of trained layers, or without its averaging.

    Args:
        path: the checkpoint.
        config: of the resumed run, resolved.
        started: settings that the run was last trained with, as in its config.yaml.

    Raises:
        UserError: names what differs, and the settings that have changed.
    """
    checkpoint = read_checkpoint(path)
    if "averaging_state" in checkpoint and not config.ema:
        raise UserError(
            f"{path}: the run was started with --ema {started.get('ema')} and cannot be resumed without; "
            "restore the setting, or start a new run"
        )
    problem = _differing_tensors(checkpoint, model) or _differing_groups(checkpoint, model, config)
    if problem:
        changes = summarize_list(_changed_settings(started, model, config))
        restore = f"restore {changes}" if changes else "restore the settings"
        raise UserError(f"{path}: {problem}; {restore}, or start a new run")


def _differing_tensors(checkpoint: Mapping[str, Any], model: Detector) -> str:
    saved = {
        name.removeprefix(PREFIX): tuple(tensor.shape)
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(PREFIX)
    }
    current = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    names = [name for name in saved | current if saved.get(name) != current.get(name)]
    return f"the run was started with other layers ({summarize_list(names, limit=2)})" if names else ""


def _differing_groups(checkpoint: Mapping[str, Any], model: Detector, config: TrainConfig) -> str:
    """Return a phrase if the optimizer has other groups of parameters: frozen layers, or other decays."""
    saved = [len(group["params"]) for group in checkpoint["optimizer_states"][0]["param_groups"]]
    current = [len(group["params"]) for group in parameter_groups(model, config)]
    if saved == current:
        return ""
    if sum(saved) != sum(current):
        return f"the run was started with {sum(saved)} trained tensors and cannot be resumed with {sum(current)}"
    return "the run was started with other groups of weights in the optimizer"


def _changed_settings(started: Mapping[str, Any], model: Detector, config: TrainConfig) -> list[str]:
    """Return the settings that decide on layers and groups and have changed, with the values they had."""
    settings = asdict(config)
    current = {name: settings[name] for name in ("backbone", "decay_norm_bias", "layer_decay")}
    current["detector"] = asdict(model.config)
    now = dict(flatten(tuples_to_lists(current)))
    then = dict(flatten({name: started[name] for name in current if name in started}))
    changed = {name: value for name, value in then.items() if name not in now or now[name] != value}
    return [f"--{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in changed.items()]
