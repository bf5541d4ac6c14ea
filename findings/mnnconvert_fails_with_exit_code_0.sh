#!/usr/bin/env bash
# Versions: onnx 1.23.2, onnxruntime 1.32.0, mnn 3.6.1, on x86-64.
# Behavior: mnnconvert of an ONNX file with Mish, which MNN does not have.
# Output seen, 2026-11-28: the conversion fails with the exit code 0; a file of the same name from an earlier conversion
# stays as it was, and runs: here HardSwish in place of Mish.
# Consequence: a build goes on with the previous detector, as if it were the new one. Remove the file first.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 mnn==3.6.1
cd "$folder"
cat > convert.py <<'PY'
import subprocess
import sys
from pathlib import Path

import MNN
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto as T, helper as h


def convert(operator, shape):
    values = [h.make_tensor_value_info(name, T.FLOAT, shape) for name in "xy"]
    graph = h.make_graph([h.make_node(operator, ["x"], ["y"])], "g", values[:1], values[1:])
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "model.onnx")
    program = [sys.executable, str(Path(sys.executable).with_name("mnnconvert"))]
    arguments = ["-f", "ONNX", "--modelFile", "model.onnx", "--MNNModel", "model.mnn", "--bizCode", "x"]
    return subprocess.run([*program, *arguments], capture_output=True).returncode


def compute(x):
    net = MNN.nn.load_module_from_file("model.mnn", ["x"], ["y"])
    actual = net.forward([MNN.expr.const(x.copy(), x.shape, MNN.expr.NCHW)])[0].read()
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0], np.array(actual)


x = np.array([[-3, -1, 0, 1, 3]], np.float32)
code = convert("Mish", x.shape)
written = Path("model.mnn").exists()
print(f"mnn 3.6.1: Mish without an earlier file: exit code {code}, file written: {written}")
assert (code, written) == (0, False), "the exit code, or Mish, has changed"
assert convert("HardSwish", x.shape) == 0
content = Path("model.mnn").read_bytes()
code = convert("Mish", x.shape)
expected, actual = compute(x)
print(f"Mish after HardSwish: exit code {code}, ONNX {expected.round(3)}, MNN {actual.round(3)}")
assert code == 0 and Path("model.mnn").read_bytes() == content, "the earlier file does not stay"
assert np.allclose(actual, x * np.clip(x / 6 + 0.5, 0, 1), atol=1e-5)
PY
venv/bin/python convert.py
