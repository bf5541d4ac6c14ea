#!/usr/bin/env bash
# Versions: onnx 1.23.2, onnxruntime 1.32.0, openvino 2026.4.1.
# Behavior: a float32 ONNX convolution compiled by OpenVINO for the CPU without options, with f32 as precision hint, and
# with ACCURACY as execution mode.
# Output seen, 2026-11-27, on a processor with AVX-512-BF16: without options OpenVINO computes in bfloat16, and outputs differ from
# onnxruntime's by 0.2 % of the largest; with either option by less than 1e-6 of it.
# Consequence: the same file and program give other detections on newer servers; set INFERENCE_PRECISION_HINT to f32. On
# processors without such instructions this script only checks that the default is float32.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto as T, helper as h

rng = np.random.default_rng(0)
x = rng.standard_normal((1, 64, 32, 32)).astype(np.float32)
w = rng.standard_normal((64, 64, 3, 3)).astype(np.float32)
node = h.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
inputs, outputs = ([h.make_tensor_value_info(name, T.FLOAT, x.shape)] for name in "xy")
graph = h.make_graph([node], "conv", inputs, outputs, [h.make_tensor("w", T.FLOAT, w.shape, w.flatten())])
model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10)
onnx.checker.check_model(model, full_check=True)
text = model.SerializeToString()
expected = onnxruntime.InferenceSession(text, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
core = openvino.Core()
has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
print("onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__, "processor computes bfloat16:", has_bf16)
errors = {}
for name, options in {
    "no options": {},
    "f32": {"INFERENCE_PRECISION_HINT": "f32"},
    "ACCURACY": {"EXECUTION_MODE_HINT": "ACCURACY"},
}.items():
    y = core.compile_model(core.read_model(text), "CPU", options)(x)[0]
    errors[name] = float(np.abs(y - expected).max() / np.abs(expected).max())
    print(f"{name}: largest difference {errors[name]:.1e} of the largest output")
assert errors["f32"] < 1e-5
assert errors["ACCURACY"] < 1e-5
assert (errors["no options"] > 1e-3) == has_bf16, "the default precision has changed"
PY
