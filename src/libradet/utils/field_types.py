"""Types of settings: values in words, and a check of those that Python code sets, which no parser has read."""

import os
from collections.abc import Sequence
from dataclasses import is_dataclass
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from libradet.errors import UserError

TYPE_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
}


def describe_type(annotation: Any) -> str:
    """Return a type in words: ``a whole number or null``."""
    if get_origin(annotation) is Annotated:
        return describe_type(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(map(str, get_args(annotation)))}"
    if get_origin(annotation) in (Union, UnionType):
        # Null first: at the end, it would read as an item of a list.
        parts = sorted(get_args(annotation), key=lambda part: part is not type(None))
        is_list = any(get_origin(part) in (list, tuple) for part in parts)
        return " or ".join(describe_type(part) for part in (parts if is_list else get_args(annotation)))
    if get_origin(annotation) in (list, tuple):
        parts = dict.fromkeys(describe_type(part) for part in get_args(annotation) if part is not ...)
        return f"a list, each item {' or '.join(parts)}"
    if is_dataclass(annotation):
        return "a mapping of fields"
    return TYPE_WORDS.get(annotation, str(getattr(annotation, "__name__", annotation)))


def check_type(name: str, value: Any, annotation: Any) -> None:
    """Raise UserError unless a value has the annotated type, or one that converts to it exactly.

    Lists and tuples are alike, numbers of numpy are numbers, and paths are text.
    """
    if not _has_type(value, annotation):
        raise UserError(f"{name} is {str(value)[:100]}: it must be {describe_type(annotation)}")


def _has_type(value: Any, annotation: Any) -> bool:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _has_type(value, parts[0])
    if origin is Literal:
        return isinstance(value, str | int) and value in parts
    if origin in (Union, UnionType):
        return any(_has_type(value, part) for part in parts)
    if origin in (list, tuple):
        items = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        allowed = [part for part in parts if part is not ...]
        return items and all(any(_has_type(item, part) for part in allowed) for item in value)
    if annotation in (int, float):
        return isinstance(value, Integral if annotation is int else Real) and not isinstance(value, bool)
    if annotation is str:
        return isinstance(value, str | os.PathLike)
    return not isinstance(annotation, type) or isinstance(value, annotation)
