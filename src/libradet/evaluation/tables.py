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
_CLASSES_PER_COLUMN = 20


def show(metrics: Metrics, title: str = "Evaluation", console: Console | None = None) -> None:
    """Print the tables of :func:`render`, on stdout unless told otherwise."""
    (console or Console()).print(render(metrics, title))


def render(metrics: Metrics, title: str = "Evaluation") -> RenderableType:
    """The twelve numbers, then precision by class, then what should be known about them.

    A dash stands where there is no ground truth, hence nothing to measure.
    """
    counts = f"{metrics['images']} pictures, {metrics['ground_truths']} objects, {metrics['detections']} detections"
    notes = [Text(note, style="yellow") for note in metrics["notes"]]
    classes = _by_class(metrics)
    # Cut into columns, since eighty classes in one do not fit a screen.
    cut = [classes[i : i + _CLASSES_PER_COLUMN] for i in range(0, len(classes), _CLASSES_PER_COLUMN)]
    head = Text(f"{title}: {counts}", style="bold")
    return Group(head, _overall(metrics), Columns([_class_table(part) for part in cut]), *notes)


def _overall(metrics: Metrics) -> Table:
    table = Table.grid(padding=(0, 2))
    for what, names in _ROWS:
        present = [n for n in names if n in metrics]
        if present:
            table.add_row(what, *(Text(n, style="dim", justify="right") for n in present))
            table.add_row("", *(Text(_number(metrics[n]), style="bold", justify="right") for n in present))
    return table


def _by_class(metrics: Metrics) -> list[tuple[str, str, str, str]]:
    return [
        (name, _number(ap), _number(metrics["per_class_AP50"][name]), str(metrics["ground_truths_per_class"][name]))
        for name, ap in metrics["per_class"].items()
    ]


def _class_table(rows: list[tuple[str, str, str, str]]) -> Table:
    table = Table("class", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("AP", "AP50", "objects"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(Text(row[0]), *row[1:])
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
