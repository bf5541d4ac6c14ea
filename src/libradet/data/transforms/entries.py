"""Users' own augmentations in configuration files, as text. Does not import torch.

An entry is one of:

- ``class_path`` and, optionally, ``init_args``, as in files of LightningCLI: a class of torchvision.transforms.v2.
  Arguments may be such entries in turn. The class path alone may stand for an entry.
- ``albumentations``: a file that ``albumentations.save`` wrote, or its content.
- ``python``: the description of a transform that was passed in Python, which a file cannot create.

Configurations hold entries as JSON, so that parsers of the command line, which create objects of nested ``class_path``
entries, do not touch them.
"""

import json
from collections.abc import Mapping
from typing import Any

from libradet.errors import UserError

KEYS = ("class_path", "init_args", "albumentations", "python")
MAX_VALUES = 20_000
"""Largest number of values in all entries: YAML's aliases could otherwise expand to any size."""


def encode_entries(entries: Any) -> list[str]:
    """Return entries as JSON; a single one may stand for a list of one, and JSON is unchanged.

    Raises:
        UserError: something else.
    """
    listed = [] if entries is None else entries if isinstance(entries, list | tuple) else [entries]
    if _count_values(listed, MAX_VALUES) >= MAX_VALUES:
        raise UserError(f"augmentations: more than {MAX_VALUES:,} values")
    return [_encode(entry) for entry in listed]


def decode_entry(text: str) -> dict[str, Any]:
    """Return an entry from JSON."""
    return json.loads(text)


def _encode(entry: Any) -> str:
    if isinstance(entry, str):
        return entry if entry.startswith("{") else json.dumps({"class_path": entry})
    is_entry = isinstance(entry, Mapping) and set(entry) <= set(KEYS) and len(entry.keys() - {"init_args"}) == 1
    if not is_entry or ("init_args" in entry and "class_path" not in entry):
        raise UserError(
            f"augmentations: {str(entry)[:100]} is no transform; write class_path and init_args, or "
            "albumentations and a file"
        )
    try:
        return json.dumps(entry, sort_keys=True)
    except TypeError as e:
        raise UserError(f"augmentations: {str(entry)[:100]}: {e}; values must be numbers, text, lists, mappings") from e


def _count_values(value: Any, limit: int) -> int:
    """Return the number of values within a value, at most ``limit``, which values within themselves reach."""
    count, pending = 0, [value]
    while pending and count < limit:
        item = pending.pop()
        count += 1
        pending += item.values() if isinstance(item, Mapping) else item if isinstance(item, list | tuple) else []
    return count
