"""Style of the figures: narrow enough for a phone, in colors that the page replaces in dark mode."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, FAINT, GRID, PAPER = "#1c1d21", "#6b6e76", "#dfe1e6", "#fefefd"
BLUE, ORANGE, GREEN, GRAY, PINK = "#2468b0", "#c4561d", "#2c8a5f", "#9a9da5", "#a8548f"

CSS_VARIABLES = {
    INK: "--ink",
    FAINT: "--faint",
    GRID: "--line",
    PAPER: "--paper",
    BLUE: "--blue",
    ORANGE: "--orange",
    GREEN: "--green",
    GRAY: "--gray",
    PINK: "--pink",
}
"""Colors of figures, and the variables of report.css that replace them."""

_STYLE = {
    "font.size": 9.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": FAINT,
    "axes.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    # Names of classes are plain text: a dollar sign does not begin a formula.
    "text.parse_math": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "libradet",
}


def report_style():
    """Return the context in which figures have to be created and saved."""
    return rc_context(_STYLE)


def new_figure(height: float, columns: int = 1, **options) -> tuple[Figure, list[Axes]]:
    """Return a figure of the page's width and its axes, side by side."""
    figure = Figure(figsize=(4.7, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False, **options)[0]
    return figure, list(axes)


def legend_above(axis: Axes, columns: int = 3) -> None:
    """Add a legend above the axes."""
    axis.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, borderaxespad=0.2, columnspacing=1.2)


def percent_axis(axis, limit: float | None = None) -> None:
    """Format the shares along an x or y axis as percentages."""
    axis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    if limit is not None:
        axis.axes.set_ylim(0, limit)


def dot_plot(
    axis: Axes, names: Sequence[str], values: Sequence[tuple[float, float, float]], colors: Sequence[str]
) -> None:
    """Plot a dot with its 95 % interval for each name, the first one at the top."""
    for row, ((value, low, high), color) in enumerate(zip(values, colors, strict=True)):
        axis.plot([low, high], [row, row], color=color, linewidth=2, alpha=0.45, solid_capstyle="round")
        axis.plot([value], [row], "o", color=color, markersize=6)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)


def save_png(figure: Figure, path: Path) -> None:
    """Save a figure as PNG on white, for slides and papers."""
    figure.savefig(path, dpi=160, facecolor="white", metadata={"Software": None})


def to_svg(figure: Figure, name: str) -> str:
    """Return a figure as SVG markup to embed in the page, with its colors as CSS variables and unique ids."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    markup = file.getvalue()
    markup = markup[markup.index("<svg") :]
    for color, variable in CSS_VARIABLES.items():
        markup = markup.replace(color, f"var({variable})")
    markup = re.sub(r"<metadata>.*?</metadata>", "", markup, flags=re.DOTALL)
    # Glyphs and clip paths of two figures may have the same id; ids have to be unique on a page.
    markup = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', markup)
    markup = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", markup)
    markup = re.sub(r' width="[^"]*pt"| height="[^"]*pt"', "", markup, count=2)
    return re.sub(r"\n\s*", "\n", markup)
