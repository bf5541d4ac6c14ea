"""Runs an ONNX file in OpenVINO."""

import openvino
from common import Run, run_cases

CONFIG = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}


def _prepare(model: str, _: tuple[int, ...]) -> Run:
    request = openvino.Core().compile_model(model, "CPU", CONFIG).create_infer_request()

    def run(images):
        results = request.infer({0: images})
        return [results[i].copy() for i in range(len(results))]

    return run


run_cases(_prepare)
