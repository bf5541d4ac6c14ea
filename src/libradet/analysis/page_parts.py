"""Pieces of the page: numbers, tables, figures with captions, cards."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from libradet.analysis.shown import shown


@dataclass
class Page:
    """What the page is made of.

    Attributes:
        report: as JSON has it.
        figures: SVG markup by name.
        images: PNG or JPEG files by name.
    """

    report: dict[str, Any]
    figures: Mapping[str, str]
    images: Mapping[str, bytes]

    def number(self, path: str, how: str) -> str:
        """A number of the report, see :func:`libradet.analysis.shown.shown`."""
        return shown(self.report, path, how)

    def figure(self, name: str, caption: str, table: str | None = None) -> str:
        """A figure, what to see in it, and its numbers; nothing if there is none of that name."""
        if name not in self.figures:
            return ""
        return (
            f'<figure id="{name}"><div class="plot">{self.figures[name]}</div><figcaption>{caption}</figcaption>'
            f"{self.table(table or name, f'figures/{name}.png')}</figure>"
        )

    def table(self, name: str, image: str = "", title: str = "Numbers") -> str:
        """A table that opens on request, and links to the files beside the page."""
        table = self.report["tables"][name]
        head = "".join(f"<th>{escape(column)}</th>" for column in table["columns"])
        rows = "".join(
            f"<tr>{''.join(self._cell(name, i, j, how) for j, how in enumerate(table['forms']))}</tr>"
            for i in range(len(table["rows"]))
        )
        files = f'<a href="tables/{name}.csv">CSV</a>' + (f' · <a href="{image}">PNG</a>' if image else "")
        return (
            f'<details><summary>{title}</summary><div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f'<tbody>{rows}</tbody></table></div><p class="small">{files}</p></details>'
        )

    def _cell(self, name: str, i: int, j: int, how: str) -> str:
        if how == "text":
            return f"<td>{escape(str(self.report['tables'][name]['rows'][i][j]))}</td>"
        return f"<td>{self.number(f'tables/{name}/rows/{i}/{j}', how)}</td>"

    def card(self, index: int) -> str:
        """One finding of the verdict."""
        finding = self.report["verdict"]["findings"][index]
        numbers = "".join(
            f"<div><dt>{escape(number['label'])}</dt>"
            f"<dd>{self.number(f'verdict/findings/{index}/numbers/{i}/value', number['form'])}</dd></div>"
            for i, number in enumerate(finding["numbers"])
        )
        parts = [
            f'<p class="tag">{escape(finding["word"])}</p><h3>{escape(finding["title"])}</h3>',
            f'<dl class="numbers">{numbers}</dl>' if numbers else "",
            f"<p>{marked(finding['text'])}</p>",
            f'<p class="paper">{escape(finding["paper"])}</p>' if finding["paper"] else "",
        ]
        if finding["options"]:
            options = "<br>".join(f"<code>{escape(option)}</code>" for option in finding["options"])
            parts.append(f'<p class="switch"><b>Switch</b><br>{options}</p>')
            command = f"<pre>{escape(finding['command'])}</pre>"
            parts.append(f"<details><summary>Command, and how to check</summary>{command}")
            parts.append(f"<p>{marked(finding['check'])}</p></details>")
        return f'<article class="card {finding["level"]}" id="finding-{finding["key"]}">{"".join(parts)}</article>'

    def image(self, name: str, text: str) -> str:
        """An embedded image."""
        content = self.images[name]
        kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
        data = base64.b64encode(content).decode("ascii")
        return f'<img alt="{escape(text, quote=True)}" src="data:image/{kind};base64,{data}">'


def figures(parts: Sequence[str]) -> str:
    """Side by side where there is room."""
    return f'<div class="figures">{"".join(parts)}</div>' if any(parts) else ""


def marked(text: str) -> str:
    """Plain text as HTML, in which options and commands are set as such."""
    return re.sub(r"--[a-z_]\w*(?:\.\w+)*|libradet (?:data )?[a-z]+", r"<code>\g<0></code>", escape(text))


def items(sentences: Sequence[str]) -> str:
    """A list."""
    return f"<ul>{''.join(f'<li>{escape(s)}</li>' for s in sentences)}</ul>" if sentences else ""
