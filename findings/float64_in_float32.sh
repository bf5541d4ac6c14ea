#!/usr/bin/env bash
# Versions: onnx 1.23.2, onnxruntime 1.32.0, openvino 2026.4.1, mnn 3.6.1.
# Behavior: a graph of Cast(double), Add, Sub, Cast(float), where x + b - b for b = 1e8 keeps x's digits only in float64.
# Output seen, 2026-11-27: for x = 0.25 0.5 1.25 2.75, onnxruntime returns x, OpenVINO and MNN return 0 0 0 0.
# Consequence: OpenVINO's CPU device and MNN accept graphs with float64 and compute them in float32 without a warning;
# weights of a resize that are computed in float64 inside the graph then round differently.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1 mnn==3.6.1
cd "$folder"
cat > graph.py <<'PY'
import onnx
from onnx import TensorProto as T, helper as h

nodes = [
    h.make_node("Cast", ["x"], ["wide"], to=T.DOUBLE),
    h.make_node("Cast", ["b"], ["big"], to=T.DOUBLE),
    h.make_node("Add", ["wide", "big"], ["sum"]),
    h.make_node("Sub", ["sum", "big"], ["rest"]),
    h.make_node("Cast", ["rest"], ["y"], to=T.FLOAT),
]
x, b, y = (h.make_tensor_value_info(name, T.FLOAT, [4]) for name in "xby")
graph = h.make_graph(nodes, "float64", [x, b], [y])
model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "model.onnx")
PY
venv/bin/python graph.py
venv/bin/python venv/bin/mnnconvert -f ONNX --modelFile model.onnx --MNNModel model.mnn --bizCode x > convert.log
venv/bin/python - <<'PY'
import numpy as np
import MNN
import onnxruntime
import openvino

x = np.array([0.25, 0.5, 1.25, 2.75], np.float32)
b = np.full(4, 1e8, np.float32)
print("onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__, "mnn 3.6.1; input", x)
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
config = {"INFERENCE_PRECISION_HINT": "f32"}
results = {
    "onnxruntime": session.run(None, {"x": x, "b": b})[0],
    "openvino": openvino.Core().compile_model("model.onnx", "CPU", config)({"x": x, "b": b})[0],
}
net = MNN.nn.load_module_from_file("model.mnn", ["x", "b"], ["y"])
results["mnn"] = np.array(net.forward([MNN.expr.const(a.copy(), a.shape, MNN.expr.NCHW) for a in (x, b)])[0].read())
for name, y in results.items():
    print(f"{name}: {y}")
assert np.array_equal(results["onnxruntime"], x), "onnxruntime does not compute in float64"
assert not np.array_equal(results["openvino"], x), "OpenVINO now computes in float64"
assert not np.array_equal(results["mnn"], x), "MNN now computes in float64"
PY
