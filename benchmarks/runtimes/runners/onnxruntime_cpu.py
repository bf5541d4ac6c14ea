"""Runs an ONNX file in onnxruntime."""

import onnxruntime
from common import Run, run_cases


def _prepare(model: str, _: tuple[int, ...]) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})


run_cases(_prepare)
