"""Runtimes of ONNX files for the dense part of a detector: onnxruntime and OpenVINO."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy import ndarray
from torch import Tensor

from libradet.engines.compiled import join_images
from libradet.models.optimize import Precision

Run = Callable[[ndarray], list[ndarray]]


class RuntimeDense:
    """The dense part of a detector in a runtime; the images of a batch run one after the other.

    Args:
        run: function that runs the graph on one image [1, 3, H, W].
        dtype: of the detector's other layers.
    """

    def __init__(self, run: Run, dtype: torch.dtype) -> None:
        self._run, self._dtype = run, dtype

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return what :meth:`libradet.models.detector.Detector.compute_dense` does."""
        return join_images([self._run_image(image) for image in images.split(1)])

    def _run_image(self, image: Tensor) -> list[Tensor]:
        outputs = [torch.from_numpy(output) for output in self._run(image.float().contiguous().numpy())]
        # Levels are [1, C, H, W]; predictions for anchors stay in float32.
        return [output.to(self._dtype) if output.dim() == 4 else output for output in outputs]


def open_onnxruntime(path: Path) -> Run:
    """Return a function that runs the file in onnxruntime, on as many threads as torch uses."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})


def open_openvino(path: Path, precision: Precision, cache_dir: Path) -> Run:
    """Return a function that runs the file in OpenVINO, on as many threads as torch uses.

    Args:
        precision: without "fp32", OpenVINO computes in bfloat16 on processors that have instructions for it.
        cache_dir: folder for compiled models.
    """
    openvino: Any = importlib.import_module("openvino")
    config = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "CACHE_DIR": str(cache_dir),
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", config)
    request = compiled.create_infer_request()
    outputs = list(range(len(compiled.outputs)))

    def run(images: ndarray) -> list[ndarray]:
        results = request.infer({"images": images})
        return [results[index].copy() for index in outputs]

    return run
