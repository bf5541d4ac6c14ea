"""The dense part of a detector as an ONNX file, kept in a cache folder."""

import hashlib
import io
import json
import os
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

import libradet
from libradet.errors import UserError
from libradet.export.export_wrapper import check_torch_version, use_static_padding
from libradet.models.detector import Detector
from libradet.models.optimize import optimize
from libradet.utils.atomic_io import atomic_write
from libradet.utils.file_lock import locked
from libradet.utils.warnings_filter import silence_loggers

CACHE_DIR = "LIBRADET_CACHE_DIR"
"""Environment variable with the cache folder."""

OPSET = 18


def cache_folder(requested: str | Path | None = None) -> Path:
    """Return the folder of engine files: the requested one, that of the environment, or one in the user's cache."""
    if requested is not None:
        return Path(requested)
    if CACHE_DIR in os.environ:
        return Path(os.environ[CACHE_DIR])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "libradet", "engines")


def dense_graph(model: Detector, folder: Path) -> Path:
    """Return the ONNX file of a detector's dense part, written to ``folder`` unless it is there.

    Its input ``images`` is [1, 3, H, W], normalized; its outputs are those of
    :meth:`libradet.models.detector.Detector.compute_dense`.

    Raises:
        UserError: the detector cannot be traced, or the folder cannot be written.
    """
    path = folder / f"{model.name}-{_hash(model)}.onnx"
    if not path.is_file():
        with locked(path, f"set {CACHE_DIR} to another folder"):
            if not path.is_file():  # by the process that had the lock
                with atomic_write(path) as partial:
                    _write(model, partial)
    return path


def output_names(model: Detector) -> list[str]:
    """Return the names of the outputs, in the order of ``compute_dense``."""
    levels = [f"level_{i}" for i in range(len(model.strides))]
    return levels if model.anchor_head is None else [*levels, "logits", "deltas"]


class _Dense(nn.Module):
    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.detector = optimize(model)
        use_static_padding(self.detector)

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        return self.detector.compute_dense(images)


def _write(model: Detector, path: Path) -> None:
    check_torch_version(torch.__version__)
    step = model.size_divisible
    example = torch.zeros(1, 3, 3 * step, 5 * step)
    sides = {2: step * Dim("rows", min=1), 3: step * Dim("columns", min=1)}
    names = {"input_names": ["images"], "output_names": output_names(model), "opset_version": OPSET, "verbose": False}
    try:
        with torch.no_grad(), silence_loggers("torch", "onnxscript"), redirect_stderr(io.StringIO()):
            program = torch.export.export(_Dense(model).eval(), (example,), dynamic_shapes=(sides,), strict=False)
            converted = torch.onnx.export(program, **names)
    except Exception as error:  # the tracer raises nearly any exception
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{model.name} on {model.config.backbone.name} cannot be converted to ONNX ({lines[0][:200]}): use the "
            "engine compiled or eager"
        ) from error
    assert converted is not None
    for node in converted.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces: long, and with paths of this machine
    converted.save(path, external_data=False)


def _hash(model: Detector) -> str:
    """Return a hash of weights, configuration, and versions."""
    settings = {"libradet": libradet.__version__, "torch": torch.__version__, "config": asdict(model.config)}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]
