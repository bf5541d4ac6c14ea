"""Checks of the YAML files of tables and presets: keys, types and names, with the reason in words."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from libradet.errors import UserError
from libradet.evaluation.coco import MASK_METRICS, STANDARD_METRICS
from libradet.utils.field_types import check_type
from libradet.utils.text import suggest

_BOX_METRICS = (*STANDARD_METRICS, "AR300", "AR1000", "APr", "APc", "APf")
_OWN_OPTIONS = {
    "data": "--data names the datasets",
    "weights": "--weights, or weights of a preset, names the initialization of all rows",
    "seed": "--seeds names the seeds",
    "output_dir": "--output_dir names the folder of all runs",
}
"""Settings of ``libradet train`` that are not those of a row, and what to use in their place."""


def check_keys(tree: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    """Raise UserError for the first unknown key."""
    for key in tree:
        if key not in known:
            similar = suggest(str(key), known)
            hint = f"did you mean {similar}?" if similar else f"choose from {', '.join(known)}"
            raise UserError(f"{where}: there is no key {key!r}; {hint}")


def check_types(tree: Mapping[str, Any], types: Mapping[str, Any], where: str | Path) -> None:
    """Raise UserError for the first value that has not the type of its key."""
    for key, annotation in types.items():
        if key in tree:
            check_type(f"{where}: {key}", tree[key], annotation)


def require(tree: Mapping[str, Any], keys: Sequence[str], path: Path) -> None:
    """Raise UserError for the first key that is missing or empty."""
    for key in keys:
        if not tree.get(key):
            raise UserError(f"{path}: {key} is missing")


def check_metrics(metrics: Sequence[str], path: Path) -> None:
    """Raise UserError for the first name that is no metric, or no metric of a validation, such as ``AP@2``."""
    for metric in metrics:
        name = re.sub(r"@[1-9]\d*$", "", metric)
        if name not in (*_BOX_METRICS, *MASK_METRICS):
            known = ", ".join(_BOX_METRICS)
            raise UserError(f"{path}: metrics has {metric}, which does not exist; choose from {known}, or mask_AP ...")


def check_row_settings(settings: Mapping[Any, Any], where: str) -> None:
    """Raise UserError for a setting of all rows, or a key that is not text."""
    for key in settings:
        check_type(f"{where}: key {key}", key, str)
        if key in _OWN_OPTIONS:
            raise UserError(f"{where}: {key} cannot be set here; {_OWN_OPTIONS[key]}")


def check_row_names(names: Sequence[str], path: Path) -> None:
    """Raise UserError if two rows have the same name, by which their results are identified."""
    if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(f"{path}: two rows have the name {repeated[0]!r}; rename one of them")
