"""Measurements, medians over rounds, and ratios within rounds."""

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.cases import Case

Runs = list[dict[str, Any]]


@dataclass
class CaseResults:
    """Results of a case.

    Attributes:
        runs: results of each contender's processes, one per round.
        skipped: reasons by name of contenders that were not measured.
        agreement: comparison of outputs with torchvision; None if there was none.
        load: load average at the start.
    """

    case: Case
    runs: dict[str, Runs] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    agreement: dict[str, Any] | None = None
    load: float = 0.0

    def seconds(self, name: str) -> list[float]:
        """Return the median seconds of a step in each round."""
        return [median(run["seconds"]) for run in self.runs[name]]

    def best(self, library: str, precision: str) -> str | None:
        """Return the name of a library's fastest variant of those measured in every round; eager for libradet."""
        start = f"{library}-{precision}"
        if start in self.runs:
            return start
        most = max((len(runs) for runs in self.runs.values()), default=0)
        names = [n for n, runs in self.runs.items() if n.startswith(start) and len(runs) == most]
        return min(names, key=lambda n: median(self.seconds(n)), default=None)


@dataclass
class Results:
    """All results, in the order of measurement."""

    machine: dict[str, Any]
    command: str
    cases: list[CaseResults] = field(default_factory=list)
    scaling: dict[str, Any] | None = None
    operations: list[dict[str, Any]] | None = None
    evaluation: dict[str, Any] | None = None

    def find(self, task: str, model: str, batch: int, backbone: str = "resnet50") -> CaseResults | None:
        """Return the case with the smallest images; None if it was not measured."""
        cases = [
            m
            for m in self.cases
            if (m.case.task, m.case.model, m.case.batch, m.case.backbone) == (task, model, batch, backbone)
        ]
        return min(cases, key=lambda m: m.case.size, default=None)


def ratios(over: list[float], under: list[float]) -> list[float]:
    """Return the ratio of each round that both have."""
    return [a / b for a, b in zip(over, under, strict=False)]


def format_range(values: list[float]) -> str:
    """Return median and range as text, such as ``1.42 (1.39-1.50)``."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"
