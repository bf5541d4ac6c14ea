"""Tables of text: rich tables for a terminal, Markdown for a file."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.box import HEAVY_HEAD, Box
from rich.table import Table
from rich.text import Text


@dataclass
class TextTable:
    """A table whose cells are text, independent of where it is displayed.

    Attributes:
        columns: headers; the first column names the rows.
        rows: cells, one list per row.
        notes: paragraphs below the table.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

    def to_rich(self) -> Table:
        """Return the table for a terminal."""
        return rich_table(self.columns, self.rows, title=self.title, caption="\n".join(self.notes))

    def to_markdown(self, level: int = 2) -> str:
        """Return heading (of this level), table and notes as Markdown."""
        text = f"{'#' * level} {self.title}\n\n{markdown_table(self.columns, self.rows)}\n"
        return text + "".join(f"\n{note}\n" for note in self.notes)


def rich_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    caption: str | None = None,
    box: Box | None = HEAVY_HEAD,
) -> Table:
    """Return a rich table: first column left-aligned, the others right-aligned. Cells are text, not markup."""
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left", box=box)
    for i, header in enumerate(columns):
        # A narrow terminal breaks other cells across lines before the names of rows, and cuts nothing off.
        is_name = i == 0
        table.add_column(header, justify="left" if is_name else "right", overflow="fold", no_wrap=is_name)
    for cells in rows:
        table.add_row(*(Text(cell) for cell in cells))
    return table


def facts_table(facts: Mapping[str, str]) -> Table:
    """Return a rich table without header or lines: one name and one value per row. Values are text, not markup."""
    table = Table(show_header=False, box=None, padding=(0, 1))
    for name, value in facts.items():
        table.add_row(Text(name), Text(value))
    return table


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, without a newline at its end."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
