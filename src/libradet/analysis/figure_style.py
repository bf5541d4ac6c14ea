"""How figures look: narrow enough for a phone, in colors that the page exchanges for dark ones."""

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

VARIABLES = {
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
"""Colors of figures, and the page's names for them."""

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
    "svg.fonttype": "path",
    "svg.hashsalt": "libradet",
}


def style():
    """The context in which figures are made and written."""
    return rc_context(_STYLE)


def new(height: float, columns: int = 1, **options) -> tuple[Figure, list[Axes]]:
    """A figure of the page's width with axes side by side."""
    figure = Figure(figsize=(4.7, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False, **options)[0]
    return figure, list(axes)


def legend_above(axis: Axes, columns: int = 3) -> None:
    """A legend that takes no room from the data."""
    axis.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, borderaxespad=0.2, columnspacing=1.2)


def as_percent(axis, limit: float | None = None) -> None:
    """Shares along this x or y axis are written as percentages."""
    axis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    if limit is not None:
        axis.axes.set_ylim(0, limit)


def dots(axis: Axes, names: Sequence[str], values: Sequence[tuple[float, float, float]], colors: Sequence[str]) -> None:
    """A dot with its 95 % interval for each name, the first on top."""
    for row, ((value, low, high), color) in enumerate(zip(values, colors, strict=True)):
        axis.plot([low, high], [row, row], color=color, linewidth=2, alpha=0.45, solid_capstyle="round")
        axis.plot([value], [row], "o", color=color, markersize=6)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)


def save_png(figure: Figure, path: Path) -> None:
    """On white, for slides and papers."""
    figure.savefig(path, dpi=160, facecolor="white", metadata={"Software": None})


def to_svg(figure: Figure, name: str) -> str:
    """Markup to stand in the page, whose colors and width it takes; ids are its own."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    markup = file.getvalue()
    markup = markup[markup.index("<svg") :]
    for color, variable in VARIABLES.items():
        markup = markup.replace(color, f"var({variable})")
    markup = re.sub(r"<metadata>.*?</metadata>", "", markup, flags=re.DOTALL)
    # Glyphs and clips of two figures may bear one name, and a page has one name once.
    markup = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', markup)
    markup = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", markup)
    markup = re.sub(r' width="[^"]*pt"| height="[^"]*pt"', "", markup, count=2)
    return re.sub(r"\n\s*", "\n", markup)
