"""Runs an ONNX file in tract."""

import tract
from common import Run, run_cases


def _prepare(model: str, _: tuple[int, ...]) -> Run:
    network = tract.onnx().load(model)
    runnable = network.into_model().into_runnable()
    return lambda images: [output.to_numpy() for output in runnable.run([images])]


run_cases(_prepare)
