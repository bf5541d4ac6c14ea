"""Ranges of settings stand on the fields, and messages name the field."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from libradet.errors import UserError
from libradet.utils.ranges import (
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Range,
    UnitInterval,
    check_ranges,
)


@dataclass
class Inner:
    count: PositiveInt = 3
    scales: tuple[PositiveFloat, ...] = (8.0,)
    stds: tuple[tuple[PositiveFloat, PositiveFloat], ...] = ((1.0, 2.0),)
    rate: NonNegativeFloat | None = None
    free: float = 0.0
    name: str = "x"
    switch: bool = False


@dataclass
class Settings:
    inner: Inner = field(default_factory=Inner)
    share: UnitInterval = 0.5
    layers: Annotated[int, Range(ge=0, le=100)] = 1
    prior: Annotated[float, Range(gt=0, lt=1)] = 0.01
    factors: list[PositiveFloat] | None = None


def changed(path: str, value) -> Settings:
    settings = Settings()
    part = settings.inner if path.startswith("inner.") else settings
    setattr(part, path.rpartition(".")[2], value)
    return settings


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("inner.count", 0, "inner.count is 0: it must be at least 1"),
        ("inner.scales", (8.0, 0.0), "inner.scales is 0.0: it must be above 0"),
        ("inner.stds", ((1.0, 2.0), (-1.0, 2.0)), "inner.stds is -1.0: it must be above 0"),
        ("inner.rate", -0.5, "inner.rate is -0.5: it must be at least 0"),
        ("inner.free", float("nan"), "inner.free is nan: it must be a finite number"),
        ("inner.count", 10**400, "inner.count is 1000000000000000000000000000000000000000: it must be a finite number"),
        ("share", 1.5, "share is 1.5: it must be between 0 and 1"),
        ("layers", 101, "layers is 101: it must be between 0 and 100"),
        ("prior", 1.0, "prior is 1.0: it must be above 0 and below 1"),
        ("factors", [1.0, -2.0], "factors is -2.0: it must be above 0"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(path, value, message):
    with pytest.raises(UserError) as refused:
        check_ranges(changed(path, value))
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("path", "value"),
    [("share", 0.0), ("share", 1.0), ("inner.rate", 0.0), ("inner.rate", None), ("layers", 100), ("inner.free", -1.0)],
)
def test_limits_and_none_are_allowed(path, value):
    check_ranges(changed(path, value))


def test_ranges_are_short_in_the_help_of_the_command_line():
    assert repr(Settings.__dataclass_fields__["share"].type) == "typing.Annotated[float, >= 0, <= 1]"
    assert repr(Range(gt=0, lt=1)) == "> 0, < 1"


def test_messages_begin_with_the_given_path():
    with pytest.raises(UserError, match=r"^detector\.inner\.count is -1"):
        check_ranges(changed("inner.count", -1), "detector")


def test_parsers_read_the_annotated_types():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--settings", type=Settings, default=Settings())
    argv = ["--settings.inner.scales", "[1, 2.5]", "--settings.inner.rate", "3", "--settings.factors", "[1, 2]"]
    settings = parser.instantiate(parser.parse_args(argv)).settings
    assert settings == Settings(Inner(scales=(1.0, 2.5), rate=3.0), factors=[1.0, 2.0])


@dataclass
class Typed:
    count: PositiveInt = 1
    rate: float = 0.5
    name: str = "x"
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, int] = (1, 2)
    items: list[Literal["csv", "png"]] | None = None
    switch: bool = False


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("count", 1.5, "a whole number"),
        ("count", "1", "a whole number"),
        ("count", True, "a whole number"),
        ("count", None, "a whole number"),
        ("rate", "0.5", "a number"),
        ("name", 3, "text"),
        ("kind", "c", "one of a, b"),
        ("pair", 2, "a list of 2 items, each a whole number"),
        ("pair", (1,), "a list of 2 items, each a whole number"),
        ("pair", [1, 2, 3], "a list of 2 items, each a whole number"),
        ("items", ["gif"], "null or a list, each item one of csv, png"),
        ("items", "csv", "null or a list, each item one of csv, png"),
        ("switch", "false", "true or false"),
    ],
)
def test_values_of_another_type_are_refused(field, value, words):
    with pytest.raises(UserError, match=rf"^{field} is .*: it must be {words}$"):
        check_ranges(Typed(**{field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("count", np.int64(2)),
        ("rate", 1),
        ("rate", np.float32(0.5)),
        ("name", Path("x")),
        ("pair", [3, 4]),
        ("items", ("csv",)),
    ],
)
def test_values_that_convert_exactly_are_accepted(field, value):
    check_ranges(Typed(**{field: value}))
