#!/usr/bin/env bash
# Versions: onnx 1.23.2, onnxruntime 1.32.0, mnn 3.6.1, on x86-64.
# Behavior: ONNX Less, Greater, LessOrEqual and GreaterOrEqual of two float32 inputs, for all pairs of -3, -2, ..., 3.
# Output seen, 2026-11-27: MNN's Less is wrong where both numbers are negative and differ: -3 < -2 is false and -2 < -3 is true,
# as if their bits were compared as integers. The other three are right, and so is Less of other pairs.
# Consequence: graphs for MNN should swap the inputs of Less and use Greater; a graph that uses Less on negative numbers
# gives other results without an error.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 mnn==3.6.1
cd "$folder"
cat > compare.py <<'PY'
import subprocess
import sys
from pathlib import Path

import MNN
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto as T, helper as h

numbers = np.arange(-3, 4, dtype=np.float32)
a, b = (grid.reshape(1, -1) for grid in np.meshgrid(numbers, numbers, indexing="ij"))
wrong = {}
for operator in ("Less", "Greater", "LessOrEqual", "GreaterOrEqual"):
    nodes = [h.make_node(operator, ["a", "b"], ["flag"]), h.make_node("Cast", ["flag"], ["y"], to=T.FLOAT)]
    values = [h.make_tensor_value_info(name, T.FLOAT, a.shape) for name in "aby"]
    graph = h.make_graph(nodes, "compare", values[:2], values[2:])
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "model.onnx")
    convert = [sys.executable, str(Path(sys.executable).with_name("mnnconvert"))]
    arguments = ["-f", "ONNX", "--modelFile", "model.onnx", "--MNNModel", "model.mnn", "--bizCode", "x"]
    subprocess.run([*convert, *arguments], check=True, capture_output=True)
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    expected = session.run(None, {"a": a, "b": b})[0].astype(bool)
    net = MNN.nn.load_module_from_file("model.mnn", ["a", "b"], ["y"])
    inputs = [MNN.expr.const(array.copy(), array.shape, MNN.expr.NCHW) for array in (a, b)]
    actual = np.array(net.forward(inputs)[0].read()).astype(bool)
    wrong[operator] = {(int(x), int(y)) for x, y in zip(a[actual != expected], b[actual != expected])}
for operator, pairs in wrong.items():
    print(f"{operator}: {len(pairs)} of {a.size} pairs differ from onnxruntime: {sorted(pairs)}")
negative = {(x, y) for x in (-3, -2, -1) for y in (-3, -2, -1) if x != y}
assert wrong.pop("Less") == negative, "Less has changed"
assert not any(wrong.values()), "the others have changed"
PY
venv/bin/python compare.py
