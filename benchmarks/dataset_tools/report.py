"""The table of docs/dataset_tools.md."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.dataset_tools.comparison import Result
from benchmarks.dataset_tools.environments import Tool
from benchmarks.page import replace_table


def update_page(path: Path, results: Mapping[Tool, Mapping[str, Result]]) -> None:
    """Replace the part of the page between the markers.

    Raises:
        UserError: the page has no markers.
    """
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}.",
        "",
        "| tool | version | format | boxes, px | boxes lost, extra | images lost | messages |",
        "|---|---|---|---|---|---|---|",
        *(_line(tool, name, result) for tool, own in results.items() for name, result in own.items()),
    ]
    replace_table(path, "make dataset-tools", lines)


def _line(tool: Tool, name: str, result: Result) -> str:
    cells = [tool.package, tool.version, name]
    if result.failure:
        return "| " + " | ".join([*cells, "-", "-", "-", f"refused: `{result.failure}`"]) + " |"
    counts = f"{result.lost}, {result.extra} of {result.boxes + result.lost}"
    messages = "; ".join(f"`{text}`" for text in result.messages) or "-"
    return "| " + " | ".join([*cells, f"{result.pixels:.0e}", counts, str(result.lost_images), messages]) + " |"
