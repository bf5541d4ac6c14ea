"""Statistics of detectors as a table."""

import re
from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from libradet.errors import UserError
from libradet.models.profiling.model_stats import OBJECTS_PER_IMAGE, ModelStats

RESERVED = round(0.7 * 2**30)
"""Bytes that a process uses before its first tensor."""

NOTES = f"""\
Images fill the input size, whose sides are multiples of the coarsest stride.

GFLOPs: multiply-adds of one image, counted once as in the tables of papers (times 2 for single operations), of \
convolutions, linear layers and matrix products. RoIAlign, non-maximum suppression and element-wise operations are \
not counted.

Memory: peak of all tensors in inference, and in a step of SGD with momentum and {OBJECTS_PER_IMAGE} objects per \
image, including weights and batch. --accumulate_grad_batches above 1 adds gradients of the size of the weights.

Fit: largest batch size if a tenth of the memory is lost to fragmentation and workspaces, and \
{RESERVED / 2**30:.1f} GiB to imports or a GPU's context."""

COLUMNS = (("params", "M"), ("GFLOPs", ""), ("infer", "MiB"), ("train", "MiB"))
WEIGHTS_COLUMN = ("weights", "MiB")
FIT_COLUMNS = (("infer", "fit"), ("train", "fit"))


def render_stats_table(
    stats: Mapping[str, ModelStats], title: str, batch_size: int = 1, limit: int | None = None
) -> RenderableType:
    """Return a table with one row per model, and notes on its columns.

    Args:
        batch_size: images per batch of the memory columns.
        limit: bytes of device memory, for columns of the largest batch size that fits.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("model", no_wrap=True)
    table.add_column("input", justify="right")
    columns = (*COLUMNS, WEIGHTS_COLUMN) if limit is None else (*COLUMNS, *FIT_COLUMNS)
    for name, unit in columns:
        table.add_column(f"{name}\n{unit}", justify="right")
    for name, row in stats.items():
        height, width = row.input_size
        table.add_row(Text(name), f"{height}x{width}", *_cells(row, batch_size, limit))
    return Group(Text(title, style="bold"), table, Text(NOTES, style="dim"))


def usable_memory(memory: int) -> int:
    """Return the bytes that are available for tensors, of those of a device."""
    return memory * 9 // 10 - RESERVED


def parse_bytes(text: str) -> int:
    """Return the bytes of a size such as ``24G``, ``24GiB`` or ``512M``; K, M, G and T are powers of 1024.

    Raises:
        UserError: the text is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([KMGT]?)(?:I?B)?", text.strip().upper())
    if match is None or not float(match[1]):
        raise UserError(f"--memory is {text!r}: it must be a size such as 24G or 512M")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2] or " "))


def _cells(row: ModelStats, batch_size: int, limit: int | None) -> list[str]:
    memories = (row.inference, row.training)
    cells = [f"{row.num_params / 1e6:.2f}", f"{row.multiply_adds / 1e9:.1f}"]
    cells += [_mebibytes(memory.peak(batch_size)) for memory in memories]
    if limit is None:
        return [*cells, _mebibytes(row.weight_bytes)]
    return cells + [str(memory.max_images(usable_memory(limit))) for memory in memories]


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.0f}"
