"""Validation report of a dataset, for terminals and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

MAX_EXAMPLES = 10
"""Number of examples of a finding that are kept."""

MAX_EXAMPLE_CHARS = 300
"""Characters of an example that are kept; damaged files may contain names of any length."""

_SHOWN_EXAMPLES = 5
_SHOWN_CLASSES = 12


@dataclass
class Report:
    """Counts of the images and boxes that are kept, and all that was skipped, repaired or refused.

    Attributes:
        images, boxes: number kept (boxes with crowd regions).
        classes: boxes by class name, in the order of the labels.
        sizes: boxes by COCO's sizes, "small" (area < 32^2 pixels), "medium", "large" (>= 96^2).
        skipped: ``{"reason", "count", "examples"}`` of skipped records.
        warnings: repaired, or suspicious.
        errors: reasons why training cannot start.
        notes: information that needs no action.
        unused: annotation files that are not read.
        purpose: "train", or "evaluate" where there is no split to train on, with the reason in ``purpose_reason``.
        readable: False if no split could be read: there is nothing to count, only an error.
    """

    images: int = 0
    boxes: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=lambda: {"small": 0, "medium": 0, "large": 0})
    skipped: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    purpose: Literal["train", "evaluate"] = "train"
    purpose_reason: str = ""
    readable: bool = True

    def skip(self, reason: str, names: Sequence[str], keep_all: bool = False) -> None:
        """Add skipped records by their names; keep MAX_EXAMPLES of the names, or all."""
        if names:
            examples = [_shorten(name) for name in (names if keep_all else names[:MAX_EXAMPLES])]
            self.skipped.append({"reason": reason, "count": len(names), "examples": examples})

    def to_json(self) -> dict[str, Any]:
        """Return images, boxes, classes, skipped, warnings and errors as plain JSON values."""
        keys = ("images", "boxes", "classes", "skipped", "warnings", "errors")
        return {key: getattr(self, key) for key in keys}

    def render(self, title: str = "Dataset") -> Group:
        """Return the report for printing with rich."""
        table = Table(show_header=False, box=None, padding=(0, 1))
        table.add_row("images", f"{self.images:,}")
        table.add_row("boxes", f"{self.boxes:,}")
        table.add_row("sizes", ", ".join(f"{name} {count:,}" for name, count in self.sizes.items()))
        table.add_row("classes", escape(_class_counts(self.classes)))
        for finding in self.skipped:
            table.add_row("[yellow]skipped[/]", escape(_describe_skipped(finding)))
        for style, name, texts in (
            ("yellow", "warning", self.warnings),
            ("red", "error", self.errors),
            ("dim", "note", self.notes),
        ):
            for text in texts:
                table.add_row(f"[{style}]{name}[/]", escape(text))
        unused = [Text(f"{text[:1].upper()}{text[1:]}.", "yellow") for text in self.unused]
        return Group(Text(title, style="italic"), table, self._outcome(), *unused)

    def _outcome(self) -> Text:
        if self.purpose == "evaluate":
            reason = f" ({self.purpose_reason})" if self.purpose_reason else ""
            if self.errors:
                return Text(f"Evaluation cannot start{reason}.", "bold red")
            return Text(f"Ready for evaluation only, not to train{reason}.", "bold yellow")
        return Text("Training cannot start.", "bold red") if self.errors else Text("Ready to train.", "bold green")


def merge(reports: dict[str, Report]) -> Report:
    """Merge the reports of several splits; findings are prefixed with the names of the splits that have them."""
    if len(reports) == 1:
        return next(iter(reports.values()))
    total = Report()
    for split, report in reports.items():
        total.images += report.images
        total.boxes += report.boxes
        for counts, more in ((total.classes, report.classes), (total.sizes, report.sizes)):
            for name, count in more.items():
                counts[name] = counts.get(name, 0) + count
        total.skipped += [finding | {"reason": f"{split}: {finding['reason']}"} for finding in report.skipped]
        total.unused = list(dict.fromkeys([*total.unused, *report.unused]))
    for name in ("warnings", "errors", "notes"):
        splits_of: dict[str, list[str]] = {}
        for split, report in reports.items():
            for text in dict.fromkeys(getattr(report, name)):
                splits_of.setdefault(text, []).append(split)
        getattr(total, name).extend(f"{', '.join(splits)}: {text}" for text, splits in splits_of.items())
    return total


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_EXAMPLE_CHARS else f"{text[:MAX_EXAMPLE_CHARS]}..."


def _describe_skipped(finding: dict[str, Any]) -> str:
    examples = finding["examples"][:_SHOWN_EXAMPLES]
    more = ", ..." if finding["count"] > len(examples) else ""
    return f"{finding['count']:,} x {finding['reason']}: {', '.join(examples)}{more}"


def _class_counts(classes: dict[str, int]) -> str:
    ranked = sorted(classes.items(), key=lambda item: -item[1])
    text = ", ".join(f"{name} {count:,}" for name, count in ranked[:_SHOWN_CLASSES])
    num_hidden = len(ranked) - _SHOWN_CLASSES
    return text if num_hidden <= 0 else f"{text}, and {num_hidden} more classes"
