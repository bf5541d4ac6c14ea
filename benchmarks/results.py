"""Measurements, medians over rounds, and ratios within rounds."""

from dataclasses import dataclass, field, fields, replace
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
        agreement: of training, the comparison of losses with torchvision's; of inference, the number of torchvision's
            detections and of proposals of both; None if there was none.
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

    def outputs_differ(self, name: str) -> str:
        """Return why an fp32 contender's outputs are not those of torchvision, "" if they are."""
        if self.case.task == "train":
            agreement = self.agreement or {}
            return "" if agreement.get("same") else "outputs differ" if "same" in agreement else "outputs not compared"
        matches = [run["matches"] for run in self.runs.get(name, []) if run.get("matches")]
        if not matches:
            return "outputs not compared"
        return "" if all(m["same"] for m in matches) else "outputs differ"

    def best_engine(self, precision: str) -> str | None:
        """Return the name of libradet's fastest engine for inference in a precision."""
        names = [name for name in self.runs if name.startswith(f"ours-{precision}")]
        return min(names, key=lambda name: median(self.seconds(name)), default=None)

    def best(self, library: str, precision: str) -> str | None:
        """Return the name of a library's fastest variant of those measured in most rounds; eager for libradet."""
        start = f"{library}-{precision}"
        if start in self.runs:
            return start
        rounds = {n: len(runs) for n, runs in self.runs.items() if n.startswith(start)}
        names = [n for n, count in rounds.items() if count == max(rounds.values())]
        return min(names, key=lambda n: median(self.seconds(n)), default=None)


@dataclass
class Results:
    """All results, in the order of measurement.

    Attributes:
        minutes: duration of the run.
        left_out: what the time budget left out.
        unavailable: reasons by name of contenders that this machine cannot run.
        processes: name, estimated seconds, seconds and seconds of processor time of each process.
    """

    machine: dict[str, Any]
    command: str
    minutes: float = 0.0
    left_out: list[str] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    processes: list[tuple[str, float, float, float]] = field(default_factory=list)
    cases: list[CaseResults] = field(default_factory=list)
    proposals: list[dict[str, Any]] | None = None
    scaling: dict[str, Any] | None = None
    operations: list[dict[str, Any]] | None = None
    loader: list[dict[str, Any]] | None = None
    evaluation: dict[str, Any] | None = None

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Results":
        """Return the results in a file written by :func:`benchmarks.report.write_report`."""
        names = [f.name for f in fields(cls)]
        results = cls(**{name: content[name] for name in names if name in content})
        results.cases = [
            CaseResults(**c | {"case": Case(**c["case"] | {"size": tuple(c["case"]["size"])})})
            for c in content["cases"]
        ]
        return results

    @property
    def has_bf16(self) -> bool:
        """Whether the processor computes in bf16 without emulating it."""
        return bool({"AVX-512-BF16", "AMX-BF16"} & set(self.machine["instructions"]))

    def find(self, case: Case) -> CaseResults | None:
        """Return the results of a case, or of the same one on the smallest images of a smoke test; None without."""
        found = [m for m in self.cases if replace(m.case, size=case.size) == case]
        return next((m for m in found if m.case == case), next(iter(found), None))


def ratios(over: list[float], under: list[float]) -> list[float]:
    """Return the ratio of each round that both have."""
    return [a / b for a, b in zip(over, under, strict=False)]


def format_range(values: list[float]) -> str:
    """Return median and range as text, such as ``1.42 (1.39-1.50)``."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"
