#!/usr/bin/env bash
# Versions: opencv-python-headless 5.0.0.93, onnx 1.23.2, onnxruntime 1.32.0.
# Behavior: cv2.dnn with ONNX Softmax of four axes in opsets 9 to 13, where up to 12 the axes from the given one on count as
# one; ReduceLogSumExp of 89; and Resize (linear) of rows 0, 1, ..., 7 by a factor, and to 3 columns.
# Output seen, 2026-11-28: OpenCV's Softmax is that of opset 13 in all: for 3 x 4 x 4 and axis 1 the sum is 16 in place of 1, and
# probabilities differ by up to 0.81 (ONNX's own reference computes the same). ReduceLogSumExp of three times 89 is inf, in
# place of 90.1. Where a factor does not give whole pixels, Resize uses the ratio of the sizes, 1.5 for 8 columns times
# 1.6, and values are shifted by up to 0.44 columns. half_pixel_symmetric is computed as asymmetric, 0.83 columns to
# the left, and antialias is ignored. There is no warning.
# Consequence: scores of files in opset 11 or 12 are others, sums of exponentials overflow, and feature pyramids or masks
# that are resized by a factor are beside their pixels at sizes that the factor does not divide. Resize to sizes.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check opencv-python-headless==5.0.0.93 onnx==1.23.2 \
    onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
cat > compute.py <<'PY'
import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto as T, helper as h, numpy_helper
from onnx.reference import ReferenceEvaluator


def compute(operator, inputs, x, constants, shape, opset=18, **options):
    """Return the output of onnxruntime, of ONNX's reference and of OpenCV."""
    node = h.make_node(operator, inputs, ["y"], **options)
    values = [h.make_tensor_value_info(name, T.FLOAT, s) for name, s in (("x", x.shape), ("y", shape))]
    initializers = [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    graph = h.make_graph([node], "g", values[:1], values[1:], initializers)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    expected = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    reference = ReferenceEvaluator(model).run(None, {"x": x})[0]
    net = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
    net.setInput(x, "x")
    return expected, reference, net.forward()


noise = np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)
print("opencv", cv2.__version__, "onnxruntime", onnxruntime.__version__)
for opset, axis in ((9, 1), (11, 1), (12, 1), (13, 1), (12, 3)):
    expected, *others = compute("Softmax", ["x"], noise, {}, noise.shape, opset, axis=axis)
    differences = [round(float(abs(expected - other).max()), 3) for other in others]
    sums = [round(float(output.sum()), 3) for output in (expected, *others)]
    print(f"Softmax of axis {axis}, opset {opset}: sums {sums}, reference and OpenCV differ by {differences}")
    if axis == 1 and opset < 13:
        assert sums == [1, 16, 16] and differences == [0.811, 0.811], "Softmax has changed"
    else:
        assert differences == [0, 0], "Softmax of opset 13 or of the last axis has changed"

results = compute("ReduceLogSumExp", ["x", "axes"], np.full_like(noise, 89), {"axes": [1]}, (1, 1, 4, 4))
values = [round(float(result.flat[0]), 1) for result in results]
print("ReduceLogSumExp of 89, 89, 89: onnxruntime, reference, OpenCV", values)
assert values == [90.1, 90.1, np.inf], "ReduceLogSumExp has changed"


def resize(name, value, size, **options):
    """Return the difference of the reference and of OpenCV from onnxruntime, in columns."""
    ramp = np.tile(np.arange(8, dtype=np.float32), (1, 1, 8, 1))
    inputs = ["x", "", name] if name == "scales" else ["x", "", "", name]
    expected, *others = compute("Resize", inputs, ramp, {name: value}, (1, 1, size, size), mode="linear", **options)
    result = [round(float(abs(expected - other).max()), 2) for other in others]
    rows = [np.round(output[0, 0, 0], 2).tolist() for output in (expected, others[1])]
    print(f"{name} {value[-1]:g} {options}: reference and OpenCV differ by {result}; onnxruntime {rows[0]}, OpenCV {rows[1]}")
    return result


scales = {scale: resize("scales", np.array([1, 1, scale, scale], np.float32), int(8 * scale)) for scale in (0.5, 1.5, 1.6)}
assert scales == {0.5: [0, 0], 1.5: [0, 0], 1.6: [0, 0.44]}, "Resize by a factor has changed"
sizes = np.array([1, 1, 3, 3])
assert resize("sizes", sizes, 3) == [0, 0], "Resize to sizes has changed"
assert resize("sizes", sizes, 3, antialias=1) == [0, 0.14], "antialias has changed"
symmetric = resize("sizes", sizes, 3, coordinate_transformation_mode="half_pixel_symmetric")
assert symmetric == [0, 0.83], "half_pixel_symmetric has changed"
PY
venv/bin/python compute.py
