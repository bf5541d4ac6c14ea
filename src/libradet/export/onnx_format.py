"""The ONNX format: written with torch's exporter, run with onnxruntime, quantized to INT8 on request."""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from torch.export import ExportedProgram

from libradet.data.image_io import image_to_tensor
from libradet.data.transforms.resize import resize
from libradet.errors import UserError
from libradet.export.metadata import ExportMetadata, RunFunction, decode_metadata, encode_metadata
from libradet.utils.atomic_io import atomic_write
from libradet.utils.warnings_filter import silence_loggers

INSTALL_HINT = "pip install '.[export]' in the folder of libradet"

QUANTIZED_OPERATORS = ["Conv", "Gemm"]
"""Operators that run in INT8; resizing, boxes, scores and NMS stay in float32."""


def require_onnx() -> None:
    """Raise UserError if a library is missing that is needed to write or run ONNX files."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"exporting to ONNX needs the package {name}: {INSTALL_HINT}") from error


def write_onnx(program: ExportedProgram, metadata: ExportMetadata, path: Path) -> None:
    """Write graph, weights and metadata as one file."""
    from libradet.export.onnx_operators import OPSET, TRANSLATIONS

    options = {"input_names": metadata.inputs, "output_names": metadata.outputs, "verbose": False}
    with silence_loggers("torch", "onnxscript"):
        converted = torch.onnx.export(program, opset_version=OPSET, custom_translation_table=TRANSLATIONS, **options)
    assert converted is not None
    graph = converted.model.graph
    for node in graph.all_nodes():
        node.metadata_props.clear()  # stack traces: long, and with paths of this machine
    converted.model.metadata_props.update(encode_metadata(metadata))
    converted.save(path, external_data=False)


def open_onnx(path: Path) -> tuple[ExportMetadata, RunFunction]:
    """Return the metadata of an ONNX file and a function that runs it, on as many threads as torch uses.

    Raises:
        UserError: onnxruntime is missing, or libradet did not write the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(f"{path}: running ONNX needs the package onnxruntime: {INSTALL_HINT}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise UserError(f"{path}: not a file that onnxruntime can run ({str(error).splitlines()[0][:120]})") from error
    metadata = decode_metadata(session.get_modelmeta().custom_metadata_map, path)

    def run(arrays: Sequence[ndarray]) -> list[ndarray]:
        inputs = dict(zip(metadata.inputs, arrays, strict=True))
        return [np.asarray(output) for output in session.run(metadata.outputs, inputs)]

    return metadata, run


def check_quantizable_file(suffix: str, static: tuple[int, int, int] | None) -> None:
    """Raise UserError if such a file cannot be quantized, whatever the detector."""
    if suffix != ".onnx":
        raise UserError(f"INT8 quantization is for .onnx files; {suffix} files compute in float32")
    if static is not None:
        raise UserError("INT8 quantization is for files that accept images of any size; leave out the static shape")


def check_quantizable(metadata: ExportMetadata, suffix: str) -> None:
    """Raise UserError if such a detector or file format cannot be quantized."""
    check_quantizable_file(suffix, metadata.static)
    if metadata.num_proposals:
        raise UserError(
            f"INT8 quantization is calibrated on images alone, and {metadata.model} also needs proposals; "
            "export it without calibration images"
        )


def calibration_inputs(images: Sequence[UInt8[ndarray, "_ _ 3"]], metadata: ExportMetadata) -> Sequence[ndarray]:
    """Return RGB images as a graph expects them: resized, unless it resizes them itself."""
    if metadata.embed_preprocess:
        return images
    resized = (resize(image_to_tensor(image), metadata.image_size)[0] for image in images)
    return [image.permute(1, 2, 0).numpy() for image in resized]


def quantize(path: Path, inputs: Sequence[UInt8[ndarray, "_ _ 3"]]) -> None:
    """Quantize convolutions and linear layers of an exported ONNX file to INT8, in place.

    Weights have a scale per output channel and seven bits: processors without VNNI instructions sum two products in 16
    bits, which eight bits would exceed. Activations have one per layer, for the range from the smallest to the
    largest value that occurs on the inputs, RGB images as the graph expects them (:func:`calibration_inputs`).
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    reader: Any = _CalibrationReader(inputs)  # not a subclass: the base class is an optional import
    options = {"per_channel": True, "op_types_to_quantize": QUANTIZED_OPERATORS, "quant_format": QuantFormat.QDQ}
    types = {"weight_type": QuantType.QInt8, "activation_type": QuantType.QUInt8, "reduce_range": True}
    with silence_loggers("root"), atomic_write(path) as partial:
        quantize_static(path, partial, reader, **options, **types)


class _CalibrationReader:
    """onnxruntime's ``CalibrationDataReader`` over images, one at a time."""

    def __init__(self, images: Sequence[ndarray]) -> None:
        self._images: Iterator[ndarray] = iter(images)

    def get_next(self) -> dict[str, ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {"images": np.ascontiguousarray(image[None])}
