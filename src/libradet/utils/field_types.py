"""Types of settings: values in words, and a check of those that Python code sets, which no parser has read."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from libradet.errors import UserError

TYPE_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
    Path: "a path",
    Mapping: "a mapping of fields",
    Callable: "a function",
}

_LISTS = (list, tuple, Sequence)


def describe_type(annotation: Any) -> str:
    """Return a type in words: ``a whole number or null``; a text in the annotation replaces them."""
    if get_origin(annotation) is Annotated:
        base, *metadata = get_args(annotation)
        return next((words for words in metadata if isinstance(words, str)), describe_type(base))
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(map(str, get_args(annotation)))}"
    if get_origin(annotation) in (Union, UnionType):
        # Null first: at the end, it would read as an item of a list.
        parts = sorted(get_args(annotation), key=lambda part: part is not type(None))
        is_list = any(get_origin(part) in _LISTS for part in parts)
        return " or ".join(dict.fromkeys(map(describe_type, parts if is_list else get_args(annotation))))
    if get_origin(annotation) in _LISTS:
        items = " or ".join(dict.fromkeys(describe_type(part) for part in get_args(annotation) if part is not ...))
        length = _fixed_length(annotation)
        if length is not None:
            return f"a list of {length} items, each {items}"
        return f"a list, each item {items}" if items else "a list"
    if is_dataclass(annotation):
        return "a mapping of fields"
    name = getattr(annotation, "__name__", annotation)
    return TYPE_WORDS.get(annotation, TYPE_WORDS.get(get_origin(annotation), f"a {name}"))


def _fixed_length(annotation: Any) -> int | None:
    """Return the length of a ``tuple[int, int]``; None of a ``tuple[int, ...]`` or a list."""
    parts = get_args(annotation)
    return len(parts) if get_origin(annotation) is tuple and parts and ... not in parts else None


def check_type(name: str, value: Any, annotation: Any) -> None:
    """Raise UserError unless a value has the annotated type, or one that converts to it exactly.

    Lists and tuples are alike, numbers of numpy are numbers, and paths are text.
    """
    if not _has_type(value, annotation):
        shown = repr(value) if isinstance(value, str) else " ".join(str(value).split())
        raise UserError(f"{name} is {shown[:100]}: it must be {describe_type(annotation)}")


def plain(value: Any) -> Any:
    """Return numbers of numpy, also in lists, as Python's, which files of settings can hold."""
    if _is_bool(value):
        return bool(value)
    if isinstance(value, Integral | Real):
        return int(value) if isinstance(value, Integral) else float(value)
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or (type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"))


def _has_type(value: Any, annotation: Any) -> bool:
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return True
    if origin is Annotated:
        return _has_type(value, parts[0])
    if origin is Literal:
        return isinstance(value, str | int) and value in parts
    if origin in (Union, UnionType):
        return any(_has_type(value, part) for part in parts)
    if origin in _LISTS:
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            return False
        allowed = [part for part in parts if part is not ...]
        return _fixed_length(annotation) in (None, len(value)) and all(
            any(_has_type(item, part) for part in allowed) for item in value
        )
    if origin is not None:
        return not isinstance(origin, type) or isinstance(value, origin)
    if annotation is bool:
        return _is_bool(value)
    if annotation in (int, float):
        return isinstance(value, Integral if annotation is int else Real) and not _is_bool(value)
    if annotation is str:
        return isinstance(value, str | os.PathLike)
    return not isinstance(annotation, type) or isinstance(value, annotation)
