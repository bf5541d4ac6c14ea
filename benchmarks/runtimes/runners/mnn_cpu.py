"""Converts an ONNX file to MNN and runs it."""

import subprocess
import sys
import tempfile
from pathlib import Path

import MNN
import numpy as np
from common import NAMES, Run, run_cases

WINOGRAD_LEVEL = 3
"""Number of MNN's hint for the tiles of Winograd convolutions; large ones, the default, cost digits."""


def _prepare(model: str, _: tuple[int, ...]) -> Run:
    folder = Path(tempfile.mkdtemp())
    converter = Path(sys.executable).with_name("mnnconvert")
    arguments = ["-f", "ONNX", "--modelFile", model, "--MNNModel", str(folder / "model.mnn"), "--bizCode", "x"]
    subprocess.run([sys.executable, str(converter), *arguments, "--keepInputFormat"], check=True, capture_output=True)
    names = list(NAMES if "mask" in model else NAMES[:4])
    runtime = MNN.nn.create_runtime_manager(({"backend": "CPU", "numThread": 1, "precision": "high"},))
    runtime.set_hint(WINOGRAD_LEVEL, 1)
    net = MNN.nn.load_module_from_file(str(folder / "model.mnn"), ["images"], names, runtime_manager=runtime)

    def run(images):
        variable = MNN.expr.const(images.copy(), images.shape, MNN.expr.NHWC, MNN.expr.uint8)
        return [np.array(output.read()) for output in net.forward([variable])]

    return run


run_cases(_prepare)
