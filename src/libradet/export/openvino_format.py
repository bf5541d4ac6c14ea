"""ONNX files in OpenVINO, in place of onnxruntime."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from libradet.errors import UserError
from libradet.export.metadata import ExportMetadata, RunFunction, decode_metadata, metadata_names

INSTALL_HINT = "pip install '.[openvino]' in the folder of libradet"


def open_openvino(path: Path) -> tuple[ExportMetadata, RunFunction]:
    """Return the metadata of an ONNX file and a function that runs it in float32, on as many threads as torch uses.

    Raises:
        UserError: openvino is missing, or libradet did not write the file.
    """
    try:
        openvino: Any = importlib.import_module("openvino")
    except ImportError as error:
        raise UserError(f"{path}: --runtime openvino needs the package openvino: {INSTALL_HINT}") from error
    # By default, OpenVINO computes in bfloat16 on processors that have instructions for it.
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    try:
        core = openvino.Core()
        model = core.read_model(path)
        texts = _metadata_texts(model)
        keep_boxes_at_threshold(model)
        compiled = core.compile_model(model, "CPU", config)
    except Exception as error:  # openvino raises RuntimeError, and other classes for damaged files
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if not line.startswith("Exception from")), type(error).__name__)
        raise UserError(f"{path}: not a file that OpenVINO can run ({reason[:120]})") from error
    metadata = decode_metadata(texts, path)
    request = compiled.create_infer_request()

    def run(arrays: Sequence[ndarray]) -> list[ndarray]:
        results = request.infer(dict(zip(metadata.inputs, arrays, strict=True)))
        return [np.array(results[name]) for name in metadata.outputs]

    return metadata, run


def keep_boxes_at_threshold(model: Any) -> None:
    """Raise the IoU thresholds of NMS in an ``openvino.Model`` to the next float32 number, in place.

    OpenVINO removes boxes whose IoU equals the threshold; ONNX and onnxruntime keep them.
    """
    openvino: Any = importlib.import_module("openvino")
    for node in model.get_ops():
        if node.get_type_name() == "NonMaxSuppression":
            threshold = np.asarray(node.input_value(3).get_node().data, np.float32)
            above = openvino.op.Constant(np.asarray(np.nextafter(threshold, np.float32(2))))
            node.input(3).replace_source_output(above.output(0))


def _metadata_texts(model: Any) -> dict[str, str]:
    paths = {name: ["framework", name] for name in metadata_names()}
    return {name: model.get_rt_info(path).astype(str) for name, path in paths.items() if model.has_rt_info(path)}
