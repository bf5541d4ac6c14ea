"""What the documentation shows: its blocks of code, and the command lines in them."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"^(?:<!-- not run: (?P<reason>.*?) -->\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_INCLUDED = re.compile(r'^--8<-- "(.+)"$', re.M)


class Block(NamedTuple):
    """A block of code; ``reason`` is why nobody can run it here, None for those that are run."""

    page: Path
    line: int
    kind: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Those of a page, in order; those without a language are for the shell."""
    text = page.read_text()
    found = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        content = _INCLUDED.sub(lambda m: (ROOT / m[1]).read_text(), match["text"])
        found.append(Block(page, line, match["kind"] or "sh", content, match["reason"]))
    return found


def command_lines(block: Block) -> list[list[str]]:
    """What follows ``libradet`` in each line of a shell block that calls it, whoever launches it."""
    lines = block.text.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        if "libradet" in words:
            found.append(words[words.index("libradet") + 1 :])
    return found
