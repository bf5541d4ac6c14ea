#!/usr/bin/env bash
# Versions: onnx 1.23.2, onnxruntime 1.32.0 (numpy 2.4.6), on x86-64.
# Behavior: ONNX MaxPool, AveragePool and Conv of 20 x 20 with a kernel of 3 x 3, stride 1 and 2, dilation 1 and 2, and auto_pad
# SAME_UPPER and SAME_LOWER, next to the same padding written as numbers; by onnxruntime and by ONNX's ReferenceEvaluator.
# Output seen, 2026-11-29: ONNX defines sizes of input / stride, rounded up, and its shape inference returns 20 and 10. With
# dilation 2, onnxruntime pads pools as if the dilation were 1, and returns 18 x 18 and 9 x 9 without an error, where it
# refuses such a Conv: "Dilation not supported for AutoPadType::SAME_UPPER". The reference has other faults: MaxPool with
# SAME_LOWER and stride 2 has values of other places also without dilation, and AveragePool with dilation 2 other values.
# With padding as numbers, both are right in all cases, and equal.
# Consequence: feature maps behind a dilated pool are smaller than the graph declares, so a detector's cells no longer belong to
# their anchors, or a Concat fails far from the cause; and who compares a runtime with the reference blames the wrong one.
# Write pads as numbers.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
cat > pool.py <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

onnxruntime.set_default_logger_severity(4)
VALUES = {
    "x": np.random.default_rng(0).normal(size=(1, 1, 20, 20)).astype(np.float32),
    "w": np.ones((1, 1, 3, 3), np.float32),
}


def create(operator, stride, dilation, padding):
    """Return a model of one operator with a kernel of 3 x 3."""
    options = {"kernel_shape": [3, 3], "strides": [stride] * 2, "dilations": [dilation] * 2} | padding
    names = ["x", "w"] if operator == "Conv" else ["x"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, VALUES[name].shape) for name in names]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 1, "height", "width"))
    graph = helper.make_graph([helper.make_node(operator, names, ["y"], **options)], "g", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def compute(model):
    """Return the outputs of onnxruntime, or its message, and of ONNX's reference."""
    feeds = {value.name: VALUES[value.name] for value in model.graph.input}
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        first = session.run(None, feeds)[0]
    except Exception as error:
        first = str(error)
    return first, ReferenceEvaluator(model).run(None, feeds)[0]


def describe(actual, expected):
    """Return whether an output is right, and otherwise how it differs."""
    if isinstance(actual, str):
        assert "Dilation not supported for AutoPadType" in actual, "the error has changed"
        return "error"
    if actual.shape != expected.shape:
        return "{} x {}".format(*actual.shape[2:])
    return "right" if np.allclose(actual, expected, atol=1e-5) else "other values"


print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
seen = {}
for operator in ("MaxPool", "AveragePool", "Conv"):
    for stride in (1, 2):
        for dilation in (1, 2):
            side = 20 // stride
            total = (side - 1) * stride + 2 * dilation + 1 - 20
            for name in ("SAME_UPPER", "SAME_LOWER"):
                less, more = total // 2, total - total // 2
                pads = [less, less, more, more] if name == "SAME_UPPER" else [more, more, less, less]
                expected, second = compute(create(operator, stride, dilation, {"pads": pads}))
                assert describe(second, expected) == "right" and expected.shape == (1, 1, side, side), "numbers have changed"
                model = create(operator, stride, dilation, {"auto_pad": name})
                model.graph.output[0].type.tensor_type.shape.dim[2].Clear()
                inferred = onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.shape.dim[2].dim_value
                assert inferred == side, "inferred sizes have changed"
                results = tuple(describe(result, expected) for result in compute(model))
                seen[operator, stride, dilation, name] = results
                print(f"{operator} stride {stride} dilation {dilation} {name}: onnxruntime {results[0]}, reference {results[1]}")
for (operator, stride, dilation, name), results in seen.items():
    wrong = {"MaxPool": "18 x 18" if stride == 1 else "9 x 9", "AveragePool": "18 x 18" if stride == 1 else "9 x 9", "Conv": "error"}
    first = "right" if dilation == 1 else wrong[operator]
    shifted = operator == "MaxPool" and stride == 2 and name == "SAME_LOWER"
    second = "other values" if shifted or (operator == "AveragePool" and dilation == 2) else "right"
    assert results == (first, second), f"{operator} {stride} {dilation} {name} has changed"
PY
venv/bin/python pool.py
