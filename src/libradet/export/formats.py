"""File formats of exported detectors, by suffix."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from torch.export import ExportedProgram

from libradet.errors import UserError
from libradet.export.exported_model import ExportedModel
from libradet.export.metadata import ExportMetadata, RunFunction
from libradet.export.onnx_format import open_onnx, require_onnx, write_onnx
from libradet.export.openvino_format import open_openvino
from libradet.export.pt2_format import open_pt2, write_pt2
from libradet.utils.atomic_io import require_exists

Runtime = Literal["onnxruntime", "openvino"]


class FileFormat(NamedTuple):
    """Functions of a file format.

    Attributes:
        require: raises UserError if a library is missing that is needed for writing.
        write: writes a file.
        open: returns the metadata of a file and a function that runs it.
    """

    require: Callable[[], None]
    write: Callable[[ExportedProgram, ExportMetadata, Path], None]
    open: Callable[[Path], tuple[ExportMetadata, RunFunction]]


FORMATS = {
    ".onnx": FileFormat(require_onnx, write_onnx, open_onnx),
    ".pt2": FileFormat(lambda: None, write_pt2, open_pt2),
}


def get_format(path: str | Path) -> FileFormat:
    """Return the format of a file by its suffix. Raises UserError if there is no such format."""
    suffix = Path(path).suffix
    if suffix not in FORMATS:
        raise UserError(f"{path}: an exported detector's name ends in .onnx (ONNX) or .pt2 (torch), not in {suffix!r}")
    return FORMATS[suffix]


def open_exported(path: str | Path, runtime: Runtime = "onnxruntime") -> ExportedModel:
    """Open an exported detector.

    Args:
        runtime: that runs ONNX files; torch runs .pt2 files.

    Raises:
        UserError: the file is missing, damaged, or was not written by libradet; or a library is missing.
    """
    file_format = get_format(path)
    require_exists(path)
    open_file = open_openvino if runtime == "openvino" else file_format.open
    return ExportedModel(*open_file(Path(path)))
