"""Random mutation of bytes and of nested lists and dictionaries."""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np

Rng = np.random.Generator

HOSTILE: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    1e-9,
    -0.0,
    0.5,
    1e30,
    -1e30,
    1e300,
    2**31,
    2**63,
    2**64,
    -(2**63),
    10**400,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    " ",
    "0",
    "1",
    "-1",
    "1e5",
    "nan",
    "٣",
    "²",
    "x" * 300,
    "x" * 5000,
    "../../etc/passwd",
    "/dev/zero",
    "/etc/passwd",
    "a/" * 200 + "b.png",
    "\x00",
    "a\nb",
    "\ud800",
    "ü",
    "ü",
    "🙂",
    "hf-hub:a/b",
    "local-dir:/tmp",
    "[red]",
    "[/]",
    "%s",
    "{x}",
    "$(touch canary)",
    "<b>",
    "9" * 5000,
    [],
    {},
    [[]],
    [None],
    [0],
    [1, 2, 3],
    [1, 2, 3, 4],
    ["a"] * 4,
    {"a": 1},
    [[1, 2, 3, 4, 5, 6]],
    [[0, 0, 1e9, 0, 0, 1e9]],
    [1e400, 0, 1, 1],
    [0, 0, 10**400, 1],
    {"size": [48, 64], "counts": "abc"},
    {"size": 5, "counts": []},
    {"size": [48, 64], "counts": [0, 48 * 64]},
    {"size": [48, 64], "counts": "\x00~~~"},
    {"counts": 3},
    [[{}]],
    10**9,
    10**6,
    65536,
    [10**9] * 4,
    4301 * [0],
]


def pick(rng: Rng, options: list[Any]) -> Any:
    """Return a random element, of any type."""
    return options[int(rng.integers(len(options)))]


def mutate_tree(rng: Rng, content: Any, times: int, values: list[Any] | None = None) -> Any:
    """Replace, remove, duplicate or copy values at ``times`` random places; return the content."""
    for _ in range(times):
        places = list(_places(content))
        if not places:
            return content
        owner, key = places[int(rng.integers(len(places)))]
        how = rng.random()
        if how < 0.6:
            # A copy, since later mutations must not change the shared values.
            owner[key] = deepcopy(pick(rng, values or HOSTILE))
        elif how < 0.75:
            del owner[key]
        elif how < 0.85 and isinstance(owner, list):
            owner.insert(key, owner[key])
        elif isinstance(owner[key], int | float) and not isinstance(owner[key], bool):
            owner[key] = _number(rng, owner[key])
        else:
            other, there = places[int(rng.integers(len(places)))]
            if there in other if isinstance(other, dict) else there < len(other):
                owner[key] = other[there] if not isinstance(other[there], dict | list) else None
    return content


def _number(rng: Rng, value: float) -> float:
    changes: list[Callable[[float], float]] = [
        lambda v: -v,
        lambda v: v * 1000,
        lambda v: v / 1000,
        lambda v: v + 1,
        lambda v: math.nan,
    ]
    return pick(rng, changes)(float(value) if abs(value) < 1e300 else 1.0)


def _places(content: Any) -> Any:
    """Yield all containers with their keys or indices, recursively."""
    keys: Any = ()
    if isinstance(content, dict):
        keys = list(content)
    elif isinstance(content, list):
        keys = range(len(content))
    for key in keys:
        yield content, key
        yield from _places(content[key])


def damage_bytes(rng: Rng, data: bytes) -> bytes:
    """Return the bytes truncated, with flipped bits, duplicated, removed or replaced parts, or unchanged."""
    how = rng.integers(7)
    if how == 0 or not data:
        return data
    at = int(rng.integers(len(data)))
    length = int(min(len(data) - at, 1 << rng.integers(8)))
    noise = rng.bytes(length)
    if how == 1:
        return data[:at]
    if how == 2:
        changed = bytearray(data)
        for place in rng.integers(len(data), size=int(1 << rng.integers(6))):
            changed[place] ^= 1 << int(rng.integers(8))
        return bytes(changed)
    if how == 3:
        return data[:at] + data[at : at + length] * int(1 + rng.integers(4)) + data[at + length :]
    if how == 4:
        return data[:at] + data[at + length :]
    if how == 5:
        return data[:at] + noise + data[at + length :]
    # Numbers at the front are often lengths.
    at = int(rng.integers(min(len(data), 64)))
    return data[:at] + pick(rng, [b"\xff" * 8, b"\x00" * 8, b"\x7f" + b"\xff" * 7]) + data[at + 8 :]
