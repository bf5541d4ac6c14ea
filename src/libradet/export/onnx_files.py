"""ONNX files: written with torch's exporter, run with onnxruntime."""

import importlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from torch.export import ExportedProgram

from libradet.errors import UserError
from libradet.export.description import Description, from_text, to_text
from libradet.export.running import Run
from libradet.utils.warnings_filter import silence_loggers

NEEDED = "pip install 'libradet[export]'"


def require_onnx() -> None:
    """Raises UserError if a library is missing that writes ONNX, or runs it."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"exporting to ONNX needs the package {name}: {NEEDED}") from error


def write_onnx(program: ExportedProgram, description: Description, path: Path) -> None:
    """One file with everything in it."""
    from libradet.export.onnx_operators import OPSET, TRANSLATIONS

    options = {"input_names": description.inputs, "output_names": description.outputs, "verbose": False}
    with silence_loggers("torch", "onnxscript"):
        converted = torch.onnx.export(program, opset_version=OPSET, custom_translation_table=TRANSLATIONS, **options)
    assert converted is not None
    graph = converted.model.graph
    for node in graph.all_nodes():
        node.metadata_props.clear()  # where each came from: paths of this machine, and as long as the graph
    converted.model.metadata_props.update(to_text(description))
    converted.save(path, external_data=False)


def open_onnx(path: Path) -> tuple[Description, Run]:
    """What an ONNX file says of itself, and a function that runs it, on as many threads as torch has.

    Raises:
        UserError: onnxruntime is missing, or this is no file of ours.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path}: running ONNX needs the package onnxruntime: {NEEDED}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own exceptions have no common ancestor
        raise UserError(f"{path}: not a file that onnxruntime can run ({str(error).splitlines()[0][:120]})") from error
    description = from_text(session.get_modelmeta().custom_metadata_map, path)

    def run(arrays: Sequence[ndarray]) -> list[ndarray]:
        given = dict(zip(description.inputs, arrays, strict=True))
        return [np.asarray(a) for a in session.run(description.outputs, given)]

    return description, run
