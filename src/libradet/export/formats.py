"""Which kinds of files there are."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch.export import ExportedProgram

from libradet.errors import UserError
from libradet.export.description import Description
from libradet.export.onnx_files import open_onnx, require_onnx, write_onnx
from libradet.export.program_files import open_program, write_program
from libradet.export.running import Exported, Run
from libradet.utils.atomic_io import require_exists


class Format(NamedTuple):
    """How a kind of file is written and opened; ``require_exists`` raises UserError if a library for it is missing."""

    require_exists: Callable[[], None]
    write: Callable[[ExportedProgram, Description, Path], None]
    open: Callable[[Path], tuple[Description, Run]]


FORMATS = {
    ".onnx": Format(require_onnx, write_onnx, open_onnx),
    ".pt2": Format(lambda: None, write_program, open_program),
}


def format_of(path: str | Path) -> Format:
    """By the ending of a file's name. Raises UserError if it is none of ours."""
    suffix = Path(path).suffix
    if suffix not in FORMATS:
        raise UserError(f"{path}: an exported detector's name ends in .onnx (ONNX) or .pt2 (torch), not in {suffix!r}")
    return FORMATS[suffix]


def is_exported(path: str | Path) -> bool:
    """Whether a file's name says that it is an exported detector."""
    return Path(path).suffix in FORMATS


def open_exported(path: str | Path) -> Exported:
    """An exported detector. Raises UserError if the file is missing, none of ours, or a library is not there."""
    kind = format_of(path)
    require_exists(path)
    return Exported(*kind.open(Path(path)))
