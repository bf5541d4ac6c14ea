#!/usr/bin/env bash
# Versions: onnx 1.23.2, onnxruntime 1.32.0, mnn 3.6.1, on x86-64.
# Behavior: ONNX Round of halves, Cast of floats to bool, and ArgMax with select_last_index, converted by mnnconvert.
# Output seen, 2026-11-28: MNN rounds halves away from zero (0.5 to 1, 2.5 to 3), where ONNX defines even numbers (0 and
# 2). Its Cast cuts decimals off first, so 0.9 becomes false, where all but 0 is true (and -1.5 becomes -1).
# select_last_index is ignored: of equal values it returns the first. All three are converted without a warning.
# Consequence: rounded coordinates differ by one, masks of positive scores below 1 are empty, and equal scores have
# another class.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 mnn==3.6.1
cd "$folder"
cat > compute.py <<'PY'
import subprocess
import sys
from pathlib import Path

import MNN
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto as T, helper as h

CASES = {
    "Round": ([[-2.5, -0.5, 0.5, 1.5, 2.5]], [("Round", {})]),
    "Cast to bool": ([[-1.5, -0.5, 0, 0.1, 0.9, 1]], [("Cast", {"to": T.BOOL}), ("Cast", {"to": T.FLOAT})]),
    "ArgMax of the last": (
        [[3, 1, 3, 2]],
        [("ArgMax", {"axis": 1, "keepdims": 1, "select_last_index": 1}), ("Cast", {"to": T.FLOAT})],
    ),
}


def compute(x, operators):
    """Return the output of onnxruntime and of MNN of operators one after the other."""
    names = ["x", *(f"h{i}" for i in range(len(operators) - 1)), "y"]
    nodes = [h.make_node(o, [names[i]], [names[i + 1]], **options) for i, (o, options) in enumerate(operators)]
    shape = (1, 1) if operators[0][0] == "ArgMax" else x.shape
    inputs, outputs = [h.make_tensor_value_info("x", T.FLOAT, x.shape)], [h.make_tensor_value_info("y", T.FLOAT, shape)]
    model = h.make_model(h.make_graph(nodes, "g", inputs, outputs), opset_imports=[h.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "model.onnx")
    Path("model.mnn").unlink(missing_ok=True)
    program = [sys.executable, str(Path(sys.executable).with_name("mnnconvert"))]
    arguments = ["-f", "ONNX", "--modelFile", "model.onnx", "--MNNModel", "model.mnn", "--bizCode", "x"]
    subprocess.run([*program, *arguments], check=True, capture_output=True)
    net = MNN.nn.load_module_from_file("model.mnn", ["x"], ["y"])
    actual = net.forward([MNN.expr.const(x.copy(), x.shape, MNN.expr.NCHW)])[0].read()
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0][0].tolist(), np.array(actual)[0].tolist()


results = {name: compute(np.array(x, np.float32), operators) for name, (x, operators) in CASES.items()}
print("onnxruntime", onnxruntime.__version__, "mnn 3.6.1")
for name, (expected, actual) in results.items():
    print(f"{name} of {CASES[name][0][0]}: onnxruntime {expected}, MNN {actual}")
assert results["Round"] == ([-2, 0, 0, 2, 2], [-3, -1, 1, 2, 3]), "Round has changed"
assert results["Cast to bool"] == ([1, 1, 0, 1, 1, 1], [-1, 0, 0, 0, 0, 1]), "Cast to bool has changed"
assert results["ArgMax of the last"] == ([2], [0]), "ArgMax has changed"
PY
venv/bin/python compute.py
