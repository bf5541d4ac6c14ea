"""Tables in pages of docs/ that a command writes, between two markers."""

from collections.abc import Sequence
from pathlib import Path

from libradet.errors import UserError

END = "<!-- end of table -->"


def replace_table(page: Path, command: str, lines: Sequence[str]) -> None:
    """Replace the lines between the markers of a page; the first marker names the command.

    Raises:
        UserError: the page has no markers.
    """
    begin, text = f"<!-- table: written by {command} -->", page.read_text()
    if begin not in text or END not in text:
        raise UserError(f"{page}: the table's markers are missing; add lines with {begin!r} and {END!r}")
    before, after = text.split(begin)[0], text.split(END)[1]
    page.write_text("\n".join([before + begin, *lines, END + after]))
