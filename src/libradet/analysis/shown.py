"""Numbers as they stand on the page: each carries its value and the place in report.json that it comes from."""

from html import escape
from typing import Any


def form(value: float | int | None, how: str) -> str:
    """A number for people.

    Args:
        how: ``percent`` (of a share), ``points`` (the same with one digit and no sign), ``decimal``, ``small`` (three
            significant digits), ``ratio`` (with x), ``count``.
    """
    if value is None:
        return "–"
    texts = {
        "percent": lambda: f"{100 * value:.0f}\u00a0%",
        "points": lambda: f"{100 * value:.1f}",
        "decimal": lambda: f"{value:.2f}",
        "small": lambda: f"{value:.3g}",
        "ratio": lambda: f"{value:.1f}\u00a0×" if value < 10 else f"{value:.0f}\u00a0×",
        "count": lambda: f"{value:,.0f}",
    }
    return texts[how]().replace("-", "−")


def look_up(report: Any, path: str) -> Any:
    """The value at ``a/b/0/c`` of a report as JSON has it."""
    for part in path.split("/"):
        report = report[int(part)] if isinstance(report, list) else report[part]
    return report


def shown(report: dict[str, Any], path: str, how: str) -> str:
    """A number of the report as HTML."""
    value = look_up(report, path)
    if value is None:
        return "–"
    return f'<data value="{value!r}" data-key="{escape(path, quote=True)}">{form(value, how)}</data>'
