#!/usr/bin/env bash
# Versions: onnx 1.23.2, onnxruntime 1.32.0, openvino 2026.4.1, on x86-64.
# Behavior: ONNX operators of nan, -1, 2 and 5 in float32, and a convolution whose weight is nan with Relu behind it.
# Output seen, 2026-11-28: onnxruntime returns nan. In OpenVINO, Relu and Clip(0, 6) of nan are 0, Max(nan, 0) is 0 and Max(0,
# nan) is nan, Min(nan, 6) is 6, HardSigmoid is 1, Exp is inf, ReduceMax and ReduceMin ignore nan, and Softmax is nan in one
# place and 0 in the others in place of nan everywhere. Sigmoid, LeakyRelu, HardSwish and ReduceSum are nan. The
# convolution with Relu is 0. MaxPool ignores nan in both. There is no warning.
# Consequence: where weights or features became nan, such as after a diverged training or an overflow, outputs of a detector
# can be ordinary numbers, and a check of them for nan does not notice. Check weights before the export.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1 numpy==2.4.6
cd "$folder"
cat > compute.py <<'PY'
import math

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto as T, helper as h

NAN, INF = math.nan, math.inf
CONSTANTS = {"low": ([], [0]), "high": ([], [6]), "weight": ([1, 1, 1, 1], [NAN])}
# Operators, and the first value of onnxruntime's and of OpenVINO's output.
CASES = [
    ([("Relu", ["x"])], NAN, 0),
    ([("Clip", ["x", "low", "high"])], NAN, 0),
    ([("Max", ["x", "low"])], NAN, 0),
    ([("Max", ["low", "x"])], NAN, NAN),
    ([("Min", ["x", "high"])], NAN, 6),
    ([("HardSigmoid", ["x"])], NAN, 1),
    ([("Exp", ["x"])], NAN, INF),
    ([("ReduceMax", ["x"])], NAN, 5),
    ([("ReduceMin", ["x"])], NAN, -1),
    ([("ReduceSum", ["x"])], NAN, NAN),
    ([("Softmax", ["x"])], NAN, NAN),
    ([("Sigmoid", ["x"])], NAN, NAN),
    ([("LeakyRelu", ["x"])], NAN, NAN),
    ([("HardSwish", ["x"])], NAN, NAN),
    ([("GlobalMaxPool", ["x"])], 5, 5),
    ([("Conv", ["x", "weight"]), ("Relu", ["h"])], NAN, 0),
]


def compute(operators, x):
    """Return the output of onnxruntime and of OpenVINO of operators one after the other."""
    outputs = ["h", "y"][-len(operators) :]
    nodes = [h.make_node(name, inputs, [o]) for (name, inputs), o in zip(operators, outputs, strict=True)]
    used = {i for _, inputs in operators for i in inputs}
    constants = [h.make_tensor(name, T.FLOAT, *value) for name, value in CONSTANTS.items() if name in used]
    values = [h.make_tensor_value_info(name, T.FLOAT, shape) for name, shape in (("x", x.shape), ("y", [None] * 4))]
    graph = h.make_graph(nodes, "g", values[:1], values[1:], constants)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    data, core = model.SerializeToString(), openvino.Core()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    compiled = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return session.run(None, {"x": x})[0].ravel().tolist(), compiled(x)[0].ravel().tolist()


print("onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__)
x = np.array([NAN, -1, 2, 5], np.float32).reshape(1, 1, 1, 4)
for operators, *first in CASES:
    results = compute(operators, x)
    name = " and ".join(f"{operator}({', '.join(inputs)})" for operator, inputs in operators)
    print(f"{name}: onnxruntime {results[0]}, OpenVINO {results[1]}")
    np.testing.assert_equal([r[0] for r in results], first, f"{name} has changed")
    if name == "Softmax(x)":
        assert all(map(math.isnan, results[0])) and results[1][1:] == [0, 0, 0], "Softmax has changed"
PY
venv/bin/python compute.py
