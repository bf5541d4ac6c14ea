"""Costs of detectors as a table for people."""

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from libradet.models.cost import OBJECTS, Cost

NOTES = f"""\
One picture in fp32 that fills its canvas, whose sides are multiples of the coarsest stride.

GFLOPs: multiply-adds of a detection counted once, as in the tables of papers (single operations: × 2), of \
convolutions, linear layers and matrix products. RoIAlign, suppression and element-wise work are left out.

Memory at its worst moment, beside the weights: of a detection, and of a training step with {OBJECTS} objects. \
Training also holds gradients and momentum, so altogether about 3 × weights + pictures × training, and the \
workspaces of libraries."""

COLUMNS = ("params", "GFLOPs", "weights", "detect", "train")
UNITS = ("M", "", "MiB", "MiB", "MiB")


def render_costs(costs: Mapping[str, Cost], title: str) -> RenderableType:
    """One row for each name, and below it what the numbers mean."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("canvas", justify="right")
    for name, unit in zip(COLUMNS, UNITS, strict=True):
        table.add_column(f"{name}\n{unit}", justify="right")
    for name, cost in costs.items():
        height, width = cost.canvas
        memory = (f"{size / 2**20:.0f}" for size in (cost.weights, cost.detecting, cost.training))
        numbers = (f"{cost.parameters / 1e6:.2f}", f"{cost.multiply_adds / 1e9:.1f}")
        table.add_row(Text(name), f"{height}×{width}", *numbers, *memory)
    return Group(Text(title, style="bold"), table, Text(NOTES, style="dim"))
