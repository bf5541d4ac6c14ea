"""Costs of detectors as a table for people."""

import re
from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from libradet.errors import UserError
from libradet.models.cost import OBJECTS, Cost

RESERVED = round(0.7 * 2**30)
"""Bytes that a process takes before its first tensor."""

NOTES = f"""\
Images fill their canvas, whose sides are multiples of the coarsest stride.

GFLOPs: multiply-adds of one detection counted once, as in the tables of papers (single operations: × 2), of \
convolutions, linear layers and matrix products. RoIAlign, suppression and element-wise work are left out.

Memory: all tensors at the worst moment of a detection, and of a step of SGD with momentum and {OBJECTS} objects per \
image, weights and batch included. With --accumulate, gradients wait for their step, as large as the weights.

Fit: most images per batch if a tenth of the memory is lost to gaps and workspaces, and \
{RESERVED / 2**30:.1f} GiB to imports or a GPU's context."""

COLUMNS = (("params", "M"), ("GFLOPs", ""), ("detect", "MiB"), ("train", "MiB"))
WEIGHTS = (("weights", "MiB"),)
LARGEST = (("detect", "fit"), ("train", "fit"))


def render_costs(costs: Mapping[str, Cost], title: str, images: int = 1, limit: int | None = None) -> RenderableType:
    """One row for each name, and below it what the numbers mean.

    Args:
        images: per batch, where memory is given.
        limit: bytes of memory, for columns with the most images per batch that fit into it.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("model", no_wrap=True)
    table.add_column("canvas", justify="right")
    for name, unit in COLUMNS + (WEIGHTS if limit is None else LARGEST):
        table.add_column(f"{name}\n{unit}", justify="right")
    for name, cost in costs.items():
        height, width = cost.canvas
        sizes = [cost.detecting.at(images), cost.training.at(images)] + [cost.weights] * (limit is None)
        cells = [f"{cost.parameters / 1e6:.2f}", f"{cost.multiply_adds / 1e9:.1f}"]
        cells += [f"{size / 2**20:.0f}" for size in sizes]
        if limit is not None:
            cells += [str(memory.largest(usable(limit))) for memory in (cost.detecting, cost.training)]
        table.add_row(Text(name), f"{height}×{width}", *cells)
    return Group(Text(title, style="bold"), table, Text(NOTES, style="dim"))


def usable(memory: int) -> int:
    """Bytes for tensors, of those that a device has."""
    return memory * 9 // 10 - RESERVED


def parse_bytes(text: str) -> int:
    """Bytes of a size such as ``24G``, ``24GiB``, ``512M``; K, M, G and T are powers of 1024, as GPUs are sold.

    Raises:
        UserError: it is no size.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([KMGT]?)(?:I?B)?", text.strip().upper())
    if found is None or not float(found[1]):
        raise UserError(f"--memory is {text!r}: a size such as 24G or 512M")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2] or " "))
