"""Render the report as a single self-contained HTML page."""

import base64
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from libradet.analysis.diagnose.finding import SEVERITY_LABELS
from libradet.analysis.report.figures import MAX_DRAWN_SAMPLES
from libradet.analysis.report.labels import STAGE_LABELS, format_number, level_names

URGENT = ("strong", "moderate", "outcome")
"""Severities whose findings come first on the page."""

_CODE = re.compile(r"--[a-z_]\w*(?:\.\w+)*|libradet (?:data )?[a-z]+")


def render(report: dict[str, Any], figures: Mapping[str, str], images: Mapping[str, bytes]) -> str:
    """Return the HTML page of a report.

    Names of classes, files and models come from users' data: the template escapes everything but ``figures``.

    Args:
        report: what report.json holds.
        figures: SVG markup by name.
        images: PNG or JPEG files by name.
    """
    environment = Environment(
        loader=PackageLoader("libradet.analysis", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"format_number": format_number, "mark_code": mark_code}
    page = environment.get_template("report.html.j2").render(
        report=report,
        value_at=partial(get_path, report),
        figures={name: Markup(svg) for name, svg in figures.items()},
        images={name: _data_uri(content) for name, content in images.items()},
        level_names=level_names(report["features"]["strides"]),
        stage_labels=STAGE_LABELS,
        severity_labels=SEVERITY_LABELS,
        urgent=URGENT,
        max_drawn_samples=MAX_DRAWN_SAMPLES,
    )
    return page.lstrip()


def get_path(report: Any, path: str) -> Any:
    """Return the value at ``a/b/0/c`` of a report as JSON holds it."""
    for part in path.split("/"):
        report = report[int(part)] if isinstance(report, list) else report[part]
    return report


def mark_code(text: str) -> Markup:
    """Escape a plain text, and mark options and commands in it as code."""
    return Markup(_CODE.sub(r"<code>\g<0></code>", str(escape(text))))


def _data_uri(content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
