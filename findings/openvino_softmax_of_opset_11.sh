#!/usr/bin/env bash
# Versions: onnx 1.23.2, onnxruntime 1.32.0, openvino 2026.4.1.
# Behavior: ONNX Softmax of three axes in opsets 9, 11, 12 and 13. Up to opset 12, its axis is the first of those that
# are flattened, so the sum over axis and all behind it is 1; from 13 on the sum over the axis alone is.
# Output seen, 2026-11-28: for 2 x 3 x 4 and axis 1, OpenVINO is right in opsets 9 and 13. In 11 and 12 it computes what 13
# defines: the sum over 3 x 4 is 4 in place of 1, and probabilities differ by up to 0.55 from onnxruntime's. LogSoftmax
# and Hardmax are right in all, and so is Softmax of the last axis. There is no warning.
# Consequence: detectors and classifiers that were exported to opset 11 or 12 with a softmax over several axes, which
# includes the default axis 1 on more than two axes, have other scores. onnx.version_converter to 13 avoids it.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1
cd "$folder"
cat > compute.py <<'PY'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto as T, helper as h, version_converter

core = openvino.Core()
x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)


def create(operator, opset, options):
    """Return a model of one operator."""
    values = [h.make_tensor_value_info(name, T.FLOAT, x.shape) for name in "xy"]
    graph = h.make_graph([h.make_node(operator, ["x"], ["y"], **options)], "g", values[:1], values[1:])
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def compute(model):
    """Return the outputs of onnxruntime and OpenVINO."""
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    return session.run(None, {"x": x})[0], core.compile_model(core.read_model(content), "CPU", options)(x)[0]


print("onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__)
wrong = set()
for operator in ("Softmax", "LogSoftmax", "Hardmax"):
    for opset in (9, 11, 12, 13):
        for options in ({}, {"axis": 1}, {"axis": 2}):
            expected, actual = compute(create(operator, opset, options))
            difference = float(np.abs(actual - expected).max())
            if difference > 1e-4:
                sums = [float(y[0].sum()) for y in (expected, actual)]
                print(f"{operator}-{opset} {options}: difference {difference:.2f}, sums of 3 x 4 {sums[0]:.1f}, {sums[1]:.1f}")
                wrong.add((operator, opset, options.get("axis")))
expected, actual = compute(version_converter.convert_version(create("Softmax", 11, {"axis": 1}), 13))
print(f"converted to opset 13: difference {np.abs(actual - expected).max():.0e}")
assert wrong == {("Softmax", opset, axis) for opset in (11, 12) for axis in (None, 1)}, "results have changed"
assert np.allclose(actual, expected, atol=1e-5), "converted graphs have changed"
assert np.allclose(expected, compute(create("Softmax", 11, {"axis": 1}))[0], atol=1e-5), "the conversion is another"
PY
venv/bin/python compute.py
