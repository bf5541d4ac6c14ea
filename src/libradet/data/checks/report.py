"""What a check of a dataset found: one summary, for people and for machines."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

EXAMPLES = 10
"""How many examples of a finding are kept."""

LONGEST = 300
"""Letters of an example that are shown; damaged files may hold names of any length."""


@dataclass
class Report:
    """Counts of what is kept, and everything that was left out, repaired or refused.

    Attributes:
        images, boxes: kept (boxes with crowd regions).
        classes: boxes by class name, in the order of the labels.
        sizes: boxes by COCO's sizes, "small" (< 32² pixels of area), "medium", "large" (>= 96²).
        skipped: ``{"what", "count", "examples"}`` of records left out.
        warnings: repaired, or suspicious.
        errors: training cannot start.
        notes: worth knowing, nothing to do.
    """

    images: int = 0
    boxes: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=lambda: {"small": 0, "medium": 0, "large": 0})
    skipped: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def skip(self, what: str, examples: Sequence[str], complete: bool = False) -> None:
        """Count records left out, one example each; ``complete`` keeps all of them."""
        if examples:
            kept = [_shown(e) for e in (examples if complete else examples[:EXAMPLES])]
            self.skipped.append({"what": what, "count": len(examples), "examples": kept})

    def to_json(self) -> dict[str, Any]:
        """The machine-readable form: images, boxes, classes, skipped, warnings, errors."""
        keys = ("images", "boxes", "classes", "skipped", "warnings", "errors")
        return {key: getattr(self, key) for key in keys}

    def render(self, title: str = "Dataset") -> Group:
        """The summary to print with rich."""
        table = Table(title=escape(title), title_justify="left", show_header=False, box=None, padding=(0, 1))
        table.add_row("images", f"{self.images:,}")
        table.add_row("boxes", f"{self.boxes:,}")
        table.add_row("sizes", " · ".join(f"{name} {count:,}" for name, count in self.sizes.items()))
        table.add_row("classes", escape(_histogram(self.classes)))
        for finding in self.skipped:
            table.add_row("[yellow]left out[/]", escape(_sentence(finding)))
        for style, name, texts in (
            ("yellow", "warning", self.warnings),
            ("red", "error", self.errors),
            ("dim", "note", self.notes),
        ):
            for text in texts:
                table.add_row(f"[{style}]{name}[/]", escape(text))
        verdict = Text("Training cannot start.", "bold red") if self.errors else Text("Ready to train.", "bold green")
        return Group(table, verdict)


def merge(reports: dict[str, Report]) -> Report:
    """One report for several splits; findings say which split they belong to."""
    if len(reports) == 1:
        return next(iter(reports.values()))
    total = Report()
    for split, report in reports.items():
        total.images += report.images
        total.boxes += report.boxes
        for counts, more in ((total.classes, report.classes), (total.sizes, report.sizes)):
            for name, count in more.items():
                counts[name] = counts.get(name, 0) + count
        total.skipped += [finding | {"what": f"{split}: {finding['what']}"} for finding in report.skipped]
        for name in ("warnings", "errors", "notes"):
            getattr(total, name).extend(f"{split}: {text}" for text in getattr(report, name))
    return total


def few(examples: Sequence[object], limit: int = 5) -> str:
    """The first examples as text: ``a, b, c and 7 more``."""
    named = ", ".join(_shown(e) for e in examples[:limit])
    return named if len(examples) <= limit else f"{named} and {len(examples) - limit:,} more"


def _shown(example: object) -> str:
    text = str(example)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _sentence(finding: dict[str, Any]) -> str:
    more = ", …" if finding["count"] > min(len(finding["examples"]), 5) else ""
    return f"{finding['count']:,} × {finding['what']}: {', '.join(finding['examples'][:5])}{more}"


def _histogram(classes: dict[str, int]) -> str:
    ranked = sorted(classes.items(), key=lambda item: -item[1])
    shown = " · ".join(f"{name} {count:,}" for name, count in ranked[:12])
    return shown if len(ranked) <= 12 else f"{shown} · and {len(ranked) - 12} more classes"
