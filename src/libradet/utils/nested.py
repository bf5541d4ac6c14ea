"""Nested dictionaries and sequences."""

from collections.abc import Iterator
from typing import Any


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Iterate over the leaves of nested dictionaries with their dotted keys."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def tuples_to_lists(value: Any) -> Any:
    """Return nested dictionaries and sequences with lists in place of tuples, as YAML reads them."""
    if isinstance(value, dict):
        return {key: tuples_to_lists(item) for key, item in value.items()}
    return [tuples_to_lists(item) for item in value] if isinstance(value, list | tuple) else value
