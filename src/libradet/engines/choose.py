"""The choice of an engine and a precision, by instruction set and by what is installed."""

import importlib.util
import os
import shutil
from typing import Literal, cast, get_args

import torch

from libradet.errors import UserError
from libradet.models.ops.quantized_layers import has_int8_layers
from libradet.models.optimize import choose_precision

Engine = Literal["eager", "packed", "compiled", "onnxruntime", "openvino"]
ENGINES = get_args(Engine)

EnginePrecision = Literal["fp32", "bf16", "int8"]

PACKAGES = {"onnxruntime": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
"""Packages that an engine needs, other than libradet's dependencies."""

INSTALL_HINTS = {"onnxruntime": "pip install '.[export]'", "openvino": "pip install '.[export,openvino]'"}


def choose_engine(requested: str, precision: str, device: str) -> tuple[Engine, EnginePrecision]:
    """Return the engine and the precision to compute in.

    "auto" is decided by the processor's instructions and by what is installed, never by a timing, so that it is the
    same on a busy machine; docs/engines.md has the measurements behind the rule.

    Args:
        requested: an engine, or "auto".
        precision: "fp32", "bf16", "int8", or "auto", which never is "int8".
        device: type of the detector's device, such as "cpu".

    Raises:
        UserError: there is no such engine, or it does not run here, or not in this precision.
    """
    if requested not in (*ENGINES, "auto"):
        raise UserError(f"engine is {requested!r}: use {', '.join(ENGINES)} or auto")
    if precision == "int8":
        return _choose_int8(requested, device), "int8"
    chosen, _ = choose_precision(_check_precision(precision), device)
    engine = _best_engine(device) if requested == "auto" else cast(Engine, requested)
    reason = missing_requirement(engine, device)
    if reason:
        raise UserError(f"the engine {engine} {reason}")
    if chosen == "bf16" and engine != "eager":
        _require_bf16(engine, device)
    return engine, chosen


def missing_requirement(engine: str, device: str = "cpu") -> str:
    """Return what an engine lacks, as the end of a sentence, or nothing if it can run."""
    packages = PACKAGES.get(engine, ())
    if (packages or engine == "packed") and device != "cpu":
        return f"runs on the CPU, and the detector is on {device}: move it with model.cpu() (--device cpu)"
    for package in packages:
        if importlib.util.find_spec(package) is None:
            return f"needs the package {package}: {INSTALL_HINTS[engine]} in the folder of libradet"
    if engine == "packed" and not has_onednn():
        return "needs oneDNN, which this build of torch lacks: use another engine"
    if engine == "compiled" and device == "cpu" and not has_compiler():
        return "needs a C++ compiler, and neither g++ nor clang++ is installed: install one"
    return ""


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which inductor needs on a CPU."""
    return any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++")))


def has_onednn() -> bool:
    """Whether torch computes convolutions in oneDNN, as its builds for x86 processors do."""
    return torch.backends.mkldnn.is_available()


def has_bf16(device: str) -> bool:
    """Whether a device computes in bf16 itself."""
    return choose_precision("auto", device)[0] == "bf16"


def _choose_int8(requested: str, device: str) -> Engine:
    if requested not in ("packed", "auto"):
        raise UserError(f"the engine {requested} does not compute in int8: use the engine packed")
    reason = missing_requirement("packed", device)
    if not reason and not has_int8_layers():
        reason = "needs oneDNN's INT8 operators, which this build of torch lacks: use another precision"
    if reason:
        raise UserError(f"the engine packed {reason}")
    return "packed"


def _best_engine(device: str) -> Engine:
    return "packed" if device == "cpu" and has_onednn() else "eager"


def _check_precision(precision: str) -> Literal["auto", "fp32", "bf16"]:
    if precision not in ("auto", "fp32", "bf16"):
        raise UserError(f"precision is {precision!r}: use fp32, bf16, int8 or auto")
    return precision


def _require_bf16(engine: str, device: str) -> None:
    if engine == "onnxruntime":
        raise UserError("the engine onnxruntime computes in fp32 on a CPU: use another engine for bf16")
    if not has_bf16(device):
        raise UserError(f"this processor has no bf16 instructions, so {engine} would emulate them: use fp32")
