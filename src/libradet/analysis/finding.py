"""One sentence of the verdict."""

from dataclasses import dataclass, field
from typing import Literal

Level = Literal["strong", "some", "undecided", "none", "balanced", "outcome"]

WORDS: dict[Level, str] = {
    "strong": "strong imbalance",
    "some": "some imbalance",
    "undecided": "cannot tell",
    "none": "no imbalance",
    "balanced": "balanced already",
    "outcome": "what it costs",
}
"""What levels are called, most urgent first. "balanced": the switch that would help is on."""


@dataclass
class Number:
    """A number to stand large on the page, as a share, count or plain value, and what it is."""

    value: float | None
    label: str
    form: Literal["percent", "ratio", "count", "points", "decimal"] = "percent"


@dataclass
class Finding:
    """Attributes:
    key: of the imbalance.
    title: a few words.
    level: how strong it is.
    numbers: the two or three that it rests on.
    text: what they mean, in plain words.
    paper: what to hold beside them.
    options: of ``libradet train``, those that turn the switch; empty where there is none or it is on.
    check: how to see that it helped.
    command: the whole command line.
    """

    key: str
    title: str
    level: Level
    numbers: list[Number]
    text: str
    paper: str = ""
    options: list[str] = field(default_factory=list)
    check: str = ""
    command: str = ""


def grade(value: float, strong: float, some: float) -> Level:
    """By limits that rise or fall towards ``strong``."""
    if strong < some:
        value, strong, some = -value, -strong, -some
    return "strong" if value >= strong else "some" if value >= some else "none"


def percent(value: float | None) -> str:
    """0.614 as "61 %"; a dash where there is nothing."""
    return "–" if value is None else f"{100 * value:.0f}\u00a0%"
