"""The table of docs/runtimes.md."""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.page import replace_table
from benchmarks.runtimes.comparison import Comparison


@dataclass
class Row:
    """Results of a runtime.

    Attributes:
        name, version: of the runtime.
        converted: number of detectors that ran, or that were converted where this machine cannot run them.
        comparison: with PyTorch, over all detectors that ran; None if none did.
        failures: reason by detector.
    """

    name: str
    version: str
    converted: int = 0
    comparison: Comparison | None = None
    failures: dict[str, str] = field(default_factory=dict)


def save_row(row: Row, folder: Path) -> None:
    """Write the results of a runtime, so that runtimes can be repeated one by one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{row.name}.json").write_text(json.dumps(asdict(row), indent=1))


def load_rows(names: list[str], folder: Path) -> list[Row]:
    """Return the results of the runtimes that have run."""
    rows = []
    for path in (folder / f"{name}.json" for name in names):
        if path.exists():
            row = Row(**json.loads(path.read_text()))
            row.comparison = row.comparison and Comparison(**row.comparison)
            rows.append(row)
    return rows


def update_page(path: Path, rows: list[Row]) -> None:
    """Replace the part of the page between the markers.

    Raises:
        UserError: the page has no markers.
    """
    replace_table(path, "make runtimes", _table(rows))


def _table(rows: list[Row]) -> list[str]:
    machine = describe_machine(1, None)
    lines = [
        f"{machine['date']}, {machine['processor']}, {', '.join(machine['instructions'])}, one thread, "
        f"torch {machine['versions']['torch']}. Load of the machine at the end of the run: {machine['load']} on "
        f"{machine['cores']} cores.",
        "",
        "| runtime | version | detectors | boxes, px | scores | masks | detections lost, extra | time / eager |",
        "|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
    ]
    reasons = [line for row in rows for line in _reasons(row)]
    return [*lines, "", *reasons] if reasons else lines


def _line(row: Row) -> str:
    count = f"{row.converted} of {row.converted + len(row.failures)}"
    cells = [row.name, row.version, count]
    if row.comparison is None:
        return "| " + " | ".join([*cells, *["-"] * 5]) + " |"
    result = row.comparison
    differences = [f"{value:.0e}" for value in (result.pixels, result.score, result.mask)]
    lost = f"{result.lost}, {result.extra} of {result.detections}"
    return "| " + " | ".join([*cells, *differences, lost, f"{statistics.median(result.time_ratios):.2f}"]) + " |"


def _reasons(row: Row) -> list[str]:
    """Return a line for each different reason for which detectors do not run."""
    by_reason: dict[str, list[str]] = {}
    for detector, reason in row.failures.items():
        by_reason.setdefault(reason, []).append(detector)
    return [f"- {row.name} {row.version}, {', '.join(names)}: `{reason}`" for reason, names in by_reason.items()]
