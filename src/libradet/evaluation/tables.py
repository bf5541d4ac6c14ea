"""Tables of COCO metrics for the terminal."""

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from libradet.evaluation.coco import Metrics
from libradet.utils.console import stdout_console
from libradet.utils.text import counted

_ROWS = (
    ("precision", ("AP", "AP50", "AP75", "APs", "APm", "APl")),
    ("recall", ("AR1", "AR10", "AR100", "ARs", "ARm", "ARl")),
    ("", ("AR300", "AR1000")),
)
_MASK_ROWS = tuple((f"mask {label}".rstrip(), tuple(f"mask_{name}" for name in names)) for label, names in _ROWS)
_CLASSES_PER_COLUMN = 20
_MAX_WIDTH = 160


def print_metrics(metrics: Metrics, title: str = "Evaluation", console: Console | None = None) -> None:
    """Print the tables of :func:`metrics_table`, on stdout if no console is passed."""
    (console or stdout_console()).print(metrics_table(metrics, title))


def metrics_table(metrics: Metrics, title: str = "Evaluation") -> RenderableType:
    """Return a table of the COCO metrics, a table of AP by class, and the notes.

    Metrics without ground truth are shown as a dash.
    """
    counts = (
        f"{counted(metrics['images'], 'image')}, {counted(metrics['ground_truths'], 'object')}, "
        f"{counted(metrics['detections'], 'detection')}"
    )
    notes = [Text(note, style="yellow") for note in metrics["notes"]]
    classes = _by_class(metrics)
    # Several columns, since a table of eighty classes is longer than a screen.
    starts = range(0, len(classes["class"]), _CLASSES_PER_COLUMN)
    class_tables = [_class_table(classes, slice(start, start + _CLASSES_PER_COLUMN)) for start in starts]
    heading = Text(f"{title}: {counts}", style="bold")
    return Group(heading, _overall(metrics), Constrain(Columns(class_tables), _MAX_WIDTH), *notes)


def _overall(metrics: Metrics) -> Table:
    table = Table.grid(padding=(0, 2))
    for label, names in (*_ROWS, *_MASK_ROWS):
        present = [n for n in names if n in metrics]
        if present:
            table.add_row(label, *(Text(n.removeprefix("mask_"), style="dim", justify="right") for n in present))
            table.add_row("", *(Text(_format(metrics[n]), style="bold", justify="right") for n in present))
    return table


def _by_class(metrics: Metrics) -> dict[str, list[str]]:
    """Return the cells of the class table by column heading."""
    columns = {"AP": "per_class", "AP50": "per_class_AP50"}
    columns |= {f"mask {heading}": f"mask_{name}" for heading, name in columns.items()}
    classes = list(metrics["per_class"])
    table = {"class": classes}
    table |= {h: [_format(metrics[name][c]) for c in classes] for h, name in columns.items() if name in metrics}
    return table | {"objects": [str(metrics["ground_truths_per_class"][c]) for c in classes]}


def _class_table(columns: dict[str, list[str]], part: slice) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in columns:
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for name, *cells in zip(*(cells[part] for cells in columns.values()), strict=True):
        table.add_row(Text(name), *cells)
    return table


def _format(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
