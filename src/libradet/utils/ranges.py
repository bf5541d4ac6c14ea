"""Ranges of settings, written in the annotations of dataclass fields.

    batch_size: PositiveInt = 4
    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.9

Parsers and type checkers read the annotated type; :func:`check_ranges` reads the range. A range applies to every number
of a tuple or list.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints

from libradet.errors import UserError
from libradet.utils.field_types import check_type, plain


@dataclass(frozen=True, repr=False)
class Range:
    """Bounds of a number; None is no bound.

    Args:
        ge: it is at least this.
        gt: it is greater than this.
        le: it is at most this.
        lt: it is less than this.
    """

    ge: int | float | None = None
    gt: int | float | None = None
    le: int | float | None = None
    lt: int | float | None = None

    def __contains__(self, number: int | float) -> bool:
        above = (self.ge is None or number >= self.ge) and (self.gt is None or number > self.gt)
        return above and (self.le is None or number <= self.le) and (self.lt is None or number < self.lt)

    def __repr__(self) -> str:
        """The range in symbols, which the help of the command line shows: ">= 0, <= 1"."""
        bounds = ((">=", self.ge), (">", self.gt), ("<=", self.le), ("<", self.lt))
        return ", ".join(f"{symbol} {_number(bound)}" for symbol, bound in bounds if bound is not None)

    def __str__(self) -> str:
        """The range in words, such as "between 0 and 1" or "at least 1"."""
        if self.ge is not None and self.le is not None:
            return f"between {_number(self.ge)} and {_number(self.le)}"
        bounds = (("at least", self.ge), ("above", self.gt), ("at most", self.le), ("below", self.lt))
        return " and ".join(f"{words} {_number(bound)}" for words, bound in bounds if bound is not None)


def _number(bound: int | float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


PositiveInt = Annotated[int, Range(ge=1)]
NonNegativeInt = Annotated[int, Range(ge=0)]
PositiveFloat = Annotated[float, Range(gt=0)]
NonNegativeFloat = Annotated[float, Range(ge=0)]
MAX_SEED = 2**32 - 1
"""Largest seed of numpy's global generator and of Lightning."""

Seed = Annotated[int, Range(ge=0, le=MAX_SEED)]
UnitInterval = Annotated[float, Range(ge=0, le=1)]


def check_ranges(config: Any, path: str = "") -> None:
    """Refuse values of a tree of dataclasses of another type than their field, and numbers outside its range.

    Numbers have to be finite. Those of numpy become Python's, and paths become text.

    Args:
        path: dotted name of ``config`` itself, which messages begin with.

    Raises:
        UserError: names the field, its value and the range.
    """
    ranges, types = ranges_of(type(config)), _types_of(type(config))
    for field in fields(config):
        name, value = f"{path}.{field.name}".lstrip("."), getattr(config, field.name)
        if is_dataclass(value):
            check_ranges(value, name)
            continue
        check_type(name, value, types[field.name])
        value = os.fspath(value) if isinstance(value, os.PathLike) else plain(value)
        _check_numbers(name, value, ranges[field.name])
        object.__setattr__(config, field.name, value)


def checked_value(name: str, value: Any, annotation: Any) -> Any:
    """Return an argument with numbers of numpy as Python's.

    Raises:
        UserError: it has another type than the annotation, or a number is not finite or out of its range.
    """
    check_type(name, value, annotation)
    value = plain(value)
    _check_numbers(name, value, tuple(_ranges_in(annotation)))
    return value


@cache
def _types_of(config_type: type) -> dict[str, Any]:
    return get_type_hints(config_type)


@cache
def ranges_of(config_type: type) -> dict[str, tuple[Range, ...]]:
    """Ranges of each field of a dataclass, by name."""
    hints = get_type_hints(config_type, include_extras=True)
    return {field.name: tuple(_ranges_in(hints[field.name])) for field in fields(config_type)}


def _ranges_in(annotation: Any) -> Iterator[Range]:
    """Ranges anywhere in an annotation such as ``tuple[PositiveFloat, ...] | None``."""
    yield from (entry for entry in getattr(annotation, "__metadata__", ()) if isinstance(entry, Range))
    for part in get_args(annotation):
        yield from _ranges_in(part)


def _check_numbers(path: str, value: Any, ranges: Sequence[Range]) -> None:
    for number in _numbers(value):
        _check_number(path, number, ranges)


def _check_number(path: str, number: int | float, ranges: Sequence[Range]) -> None:
    if not abs(number) <= sys.float_info.max:  # integers can be larger, too
        raise UserError(f"{path} is {str(number)[:40]}: it must be a finite number")
    for allowed in ranges:
        if number not in allowed:
            raise UserError(f"{path} is {number}: it must be {allowed}")


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for entry in value:
            yield from _numbers(entry)
