"""Converts an ONNX file to ncnn with pnnx and runs it."""

import subprocess
import sys
import tempfile
from pathlib import Path

import ncnn
import numpy as np
from common import Run, run_cases


def _prepare(model: str, shape: tuple[int, ...]) -> Run:
    folder = Path(tempfile.mkdtemp())
    copy = folder / "model.onnx"
    copy.write_bytes(Path(model).read_bytes())
    size = ",".join(map(str, shape))
    command = [str(Path(sys.executable).with_name("pnnx")), str(copy), f"inputshape=[{size}]u8"]
    converted = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    unsupported = sorted({line for line in converted.stderr.splitlines() if "not supported" in line})
    if converted.returncode or unsupported:
        raise RuntimeError("; ".join(unsupported)[:300] or f"pnnx ended with exit code {converted.returncode}")
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.load_param(str(folder / "model.ncnn.param"))
    net.load_model(str(folder / "model.ncnn.bin"))

    def run(images):
        with net.create_extractor() as extractor:
            extractor.input(net.input_names()[0], ncnn.Mat(images.astype(np.float32)))
            return [np.array(extractor.extract(name)[1]) for name in net.output_names()]

    return run


run_cases(_prepare)
