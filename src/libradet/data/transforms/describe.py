"""Users' own augmentations as text: their names in messages, and their settings, with which a run is resumed."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_OF_ANY_MODULE = frozenset(vars(nn.Module()))
"""Attributes of every torch module, which do not describe a particular one."""


def name_of(transform: Callable[..., Any]) -> str:
    """Return the name of a transform for messages: that of its class or function."""
    own = getattr(transform, "name", None)
    return own if isinstance(own, str) else getattr(transform, "__name__", type(transform).__name__)


def describe(transform: Any) -> str:
    """Return a transform with all its settings as text, the same in every process.

    Transforms with equal text count as the same when a run is resumed. Functions are described by their names, arrays
    by a hash.
    """
    own = getattr(transform, "describe", None)
    return own() if callable(own) else _describe(transform, ())


def _describe(value: Any, parents: tuple[int, ...]) -> str:
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if value is None or isinstance(value, bool | int | float | str | bytes | torch.dtype):
        return repr(value)
    if isinstance(value, Tensor | np.ndarray):
        return _describe_array(value)
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if id(value) in parents:
        return "..."
    within = (*parents, id(value))
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_describe(k, within)}: {_describe(v, within)}' for k, v in value.items())}}}"
    if isinstance(value, Sequence | nn.ModuleList):
        return f"[{', '.join(_describe(item, within) for item in value)}]"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(_describe(item, within) for item in value))}}}"
    settings = ", ".join(f"{name}={_describe(item, within)}" for name, item in _attributes(value).items())
    return f"{type(value).__module__}.{type(value).__qualname__}({settings})"


def _describe_array(value: Tensor | np.ndarray) -> str:
    array = np.ascontiguousarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)
    return f"array({list(array.shape)}, {array.dtype}, {blake2b(array.tobytes(), digest_size=8).hexdigest()})"


def _attributes(value: Any) -> dict[str, Any]:
    if isinstance(value, partial):
        return {"func": value.func, "args": value.args, "keywords": value.keywords}
    own = {name: item for name, item in getattr(value, "__dict__", {}).items() if name not in _OF_ANY_MODULE}
    if not isinstance(value, nn.Module):
        return own
    tensors = {**dict(value.named_parameters(recurse=False)), **dict(value.named_buffers(recurse=False))}
    return own | dict(value.named_children()) | tensors
