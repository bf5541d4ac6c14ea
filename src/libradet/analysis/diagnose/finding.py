"""A finding: one possible imbalance, its severity, the numbers behind it and the option that addresses it."""

from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["strong", "moderate", "inconclusive", "none", "balanced", "outcome"]

SEVERITY_LABELS: dict[Severity, str] = {
    "strong": "strong imbalance",
    "moderate": "moderate imbalance",
    "inconclusive": "inconclusive",
    "none": "no imbalance",
    "balanced": "already balanced",
    "outcome": "error analysis",
}
"""Severities and how the report prints them, most urgent first. "balanced": the component that would help is in use."""

STAGE_NAMES = {"roi": "RoI heads", "rpn": "RPN", "retinanet": "RetinaNet head"}
"""Stages of a detector as titles of findings name them."""


@dataclass
class Number:
    """A key number of a finding.

    Attributes:
        value: a share, ratio, count or plain value.
        label: short description.
        format: how the report prints the value.
    """

    value: float | None
    label: str
    format: Literal["percent", "ratio", "count", "points", "decimal"] = "percent"


@dataclass
class Finding:
    """Diagnosis of one possible imbalance.

    Attributes:
        key: identifies the imbalance and the stage, e.g. ``negatives_roi``.
        title: short heading.
        severity: how strong the imbalance is.
        numbers: the two or three values that the severity rests on.
        text: interpretation of the numbers.
        paper: the values that the paper reports, or where the thresholds come from.
        measured: gains of the component on other datasets, with the strength there; empty where none was measured.
        recommended: component or setting that is recommended; empty if there is none or it is in use.
        options: of ``libradet train``, those that enable it.
        check: how to verify that it helped.
        command: the complete command line.
    """

    key: str
    title: str
    severity: Severity
    numbers: list[Number]
    text: str
    paper: str = ""
    measured: str = ""
    recommended: str = ""
    options: list[str] = field(default_factory=list)
    check: str = ""
    command: str = ""

    def recommend(self, name: str, options: list[str], check: str) -> None:
        """Recommend a component by its name, the options that enable it, and how to verify the effect."""
        self.recommended = name
        self.options = options
        self.check = check

    def withdraw_recommendation(self) -> None:
        """Name the recommended component as one that lowered AP where it was measured, without its options."""
        name = self.recommended[0].upper() + self.recommended[1:]
        self.text += f" {name} is not recommended here: it lowered AP where it was measured."
        self.recommended, self.options, self.check = "", [], ""


def grade(value: float, strong: float, moderate: float) -> Severity:
    """Return the severity of a value by two thresholds, which increase or decrease towards ``strong``."""
    if strong < moderate:
        value, strong, moderate = -value, -strong, -moderate
    if value >= strong:
        return "strong"
    return "moderate" if value >= moderate else "none"


def is_imbalance(severity: Severity) -> bool:
    """Return whether the severity stands for an imbalance that was measured with confidence."""
    return severity in ("strong", "moderate")


def percent(value: float | None) -> str:
    """Format 0.614 as "61 %"; a dash if there is no value."""
    return "–" if value is None else f"{100 * value:.0f}\u00a0%"
