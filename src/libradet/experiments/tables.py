"""Results beside the paper's, for a terminal and as Markdown."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from libradet.experiments.definitions import Experiment, Row
from libradet.experiments.statistics import Difference, Mean, difference, mean

Key = Hashable
"""What belongs together in a comparison: a seed, or a dataset and a seed."""


@dataclass
class Measured:
    """What is known of a row: its numbers in hundredths by key, and how many runs failed."""

    row: Row
    metrics: dict[Key, dict[str, Any]]
    failures: dict[Key, str]

    def values(self, measure: str) -> dict[Key, float]:
        """Of one measure, where there is one."""
        return {key: 100 * v for key, m in self.metrics.items() if (v := m.get(measure)) is not None}

    def mean(self, measure: str) -> Mean | None:
        """Over all keys."""
        return mean(list(self.values(measure).values()))


@dataclass
class Lines:
    """A table as text, ready for any format."""

    title: str
    heads: list[str]
    cells: list[list[str]]
    notes: list[str]


def tabulate(experiment: Experiment, measured: list[Measured], title: str, notes: list[str]) -> Lines:
    """One line for each row: our mean ± deviation, the paper's number in brackets, and the gain over its baseline."""
    first = experiment.measures[0]
    heads = ["", "runs", *experiment.measures, f"gain in {first} (95 %)", "the paper's"]
    by_name = {m.row.name: m for m in measured}
    cells = []
    for known in measured:
        row = known.row
        gain = gain_of(known, by_name, first)
        numbers = [_number(known.mean(name), row.paper.get(name)) for name in experiment.measures]
        paper = _paper_gain(experiment, row, first)
        cells.append([row.name, _runs(known), *numbers, gain_cell(gain), paper])
    failed = [f"{m.row.name}, {_key(key)}: {why}" for m in measured for key, why in m.failures.items()]
    return Lines(title, heads, cells, [*notes, *failed])


def gain_of(known: Measured, by_name: dict[str, Measured], measure: str) -> Difference | None:
    """Of a row over the one that it is compared with."""
    if known.row.against is None or known.row.against not in by_name:
        return None
    return difference(by_name[known.row.against].values(measure), known.values(measure))


def to_rich(lines: Lines) -> Table:
    """For a terminal."""
    table = Table(title=lines.title, title_justify="left", caption="\n".join(lines.notes), caption_justify="left")
    for i, head in enumerate(lines.heads):
        table.add_column(head, justify="left" if i == 0 else "right")
    for cells in lines.cells:
        table.add_row(*(Text(cell) for cell in cells))
    return table


def to_markdown(lines: Lines, level: int = 2) -> str:
    """For a file."""
    rows = [lines.heads, ["---"] * len(lines.heads), *lines.cells]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
    notes = "\n\n".join(lines.notes)
    return f"{'#' * level} {lines.title}\n\n{table}\n" + (f"\n{notes}\n" if notes else "")


def _runs(known: Measured) -> str:
    if known.failures:
        return f"{len(known.metrics)}, {len(known.failures)} failed"
    return str(len(known.metrics))


def _key(key: Key) -> str:
    return " seed ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def _number(found: Mean | None, paper: float | None) -> str:
    said = "–" if found is None else f"{found.value:.1f}"
    if found is not None and found.deviation is not None:
        said += f" ± {found.deviation:.1f}"
    return said if paper is None else f"{said} ({paper:.1f})"


def gain_cell(gain: Difference | None) -> str:
    """A difference and its interval as text."""
    if gain is None:
        return ""
    return f"{gain.value:+.1f}" + ("" if gain.low is None else f" [{gain.low:+.1f}, {gain.high:+.1f}]")


def _paper_gain(experiment: Experiment, row: Row, measure: str) -> str:
    if row.against is None or measure not in row.paper:
        return ""
    before = experiment.row(row.against).paper.get(measure)
    return "" if before is None else f"{row.paper[measure] - before:+.1f}"
