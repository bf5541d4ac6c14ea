"""COCO's numbers as tables for people."""

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from libradet.evaluation.coco_metrics import Metrics

_ROWS = (
    ("precision", ("AP", "AP50", "AP75", "APs", "APm", "APl")),
    ("recall", ("AR1", "AR10", "AR100", "ARs", "ARm", "ARl")),
    ("", ("AR300", "AR1000")),
)
_MASK_ROWS = tuple((f"mask {what}".rstrip(), tuple(f"mask_{name}" for name in names)) for what, names in _ROWS)
_CLASSES_PER_COLUMN = 20


def show(metrics: Metrics, title: str = "Evaluation", console: Console | None = None) -> None:
    """Print the tables of :func:`render`, on stdout unless told otherwise."""
    (console or Console()).print(render(metrics, title))


def render(metrics: Metrics, title: str = "Evaluation") -> RenderableType:
    """The twelve numbers, then precision by class, then what should be known about them.

    A dash stands where there is no ground truth, hence nothing to measure.
    """
    counts = f"{metrics['images']} images, {metrics['ground_truths']} objects, {metrics['detections']} detections"
    notes = [Text(note, style="yellow") for note in metrics["notes"]]
    classes = _by_class(metrics)
    # Cut into columns, since eighty classes in one do not fit a screen.
    starts = range(0, len(classes["class"]), _CLASSES_PER_COLUMN)
    cut = [_class_table(classes, slice(start, start + _CLASSES_PER_COLUMN)) for start in starts]
    head = Text(f"{title}: {counts}", style="bold")
    return Group(head, _overall(metrics), Columns(cut), *notes)


def _overall(metrics: Metrics) -> Table:
    table = Table.grid(padding=(0, 2))
    for what, names in (*_ROWS, *_MASK_ROWS):
        present = [n for n in names if n in metrics]
        if present:
            table.add_row(what, *(Text(n.removeprefix("mask_"), style="dim", justify="right") for n in present))
            table.add_row("", *(Text(_number(metrics[n]), style="bold", justify="right") for n in present))
    return table


def _by_class(metrics: Metrics) -> dict[str, list[str]]:
    """Cells by heading."""
    columns = {"AP": "per_class", "AP50": "per_class_AP50"}
    columns |= {f"mask {heading}": f"mask_{name}" for heading, name in columns.items()}
    classes = list(metrics["per_class"])
    table = {"class": classes}
    table |= {h: [_number(metrics[name][c]) for c in classes] for h, name in columns.items() if name in metrics}
    return table | {"objects": [str(metrics["ground_truths_per_class"][c]) for c in classes]}


def _class_table(columns: dict[str, list[str]], part: slice) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in columns:
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for name, *cells in zip(*(cells[part] for cells in columns.values()), strict=True):
        table.add_row(Text(name), *cells)
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
