"""What was measured, and the few ways of looking at it: medians over rounds, and ratios within them."""

from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.cases import Case

Runs = list[dict[str, Any]]


@dataclass
class Measured:
    """A case: what each contender's processes said, one for each round.

    Attributes:
        skipped: who did not take part, and why.
        agreement: of ours with torchvision (None where nobody was asked).
    """

    case: Case
    runs: dict[str, Runs] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    agreement: dict[str, Any] | None = None
    load: float = 0.0

    def seconds(self, name: str) -> list[float]:
        """Of a step: the median of each round."""
        return [median(run["seconds"]) for run in self.runs[name]]

    def best(self, side: str, precision: str) -> str | None:
        """The fastest form of a side, of those that took part in every round; libradet's is the eager one."""
        start = f"{side}-{precision}"
        if start in self.runs:
            return start
        most = max((len(runs) for runs in self.runs.values()), default=0)
        names = [n for n, runs in self.runs.items() if n.startswith(start) and len(runs) == most]
        return min(names, key=lambda n: median(self.seconds(n)), default=None)


@dataclass
class Results:
    """Everything, in the order in which it was measured."""

    machine: dict[str, Any]
    command: str
    cases: list[Measured] = field(default_factory=list)
    growth: dict[str, Any] | None = None
    operations: list[dict[str, Any]] | None = None
    evaluation: dict[str, Any] | None = None

    def find(self, task: str, model: str, batch: int, backbone: str = "resnet50") -> Measured | None:
        """The case on the smallest images."""
        found = [
            m
            for m in self.cases
            if (m.case.task, m.case.model, m.case.batch, m.case.backbone) == (task, model, batch, backbone)
        ]
        return min(found, key=lambda m: m.case.size, default=None)


def ratios(over: list[float], under: list[float]) -> list[float]:
    """Of each round that both were in."""
    return [a / b for a, b in zip(over, under, strict=False)]


def spread(values: list[float]) -> str:
    """Median and range, such as ``1.42 (1.39-1.50)``."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{median(values):.2f} ({min(values):.2f}–{max(values):.2f})"
