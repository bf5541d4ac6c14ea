#!/usr/bin/env bash
# Versions: opencv-python-headless 5.0.0.93, onnx 1.23.2, onnxruntime 1.32.0.
# Behavior: cv2.dnn with ONNX Conv and AveragePool of 3 x 3, MaxPool of 2 x 2 and ConvTranspose whose padding is auto_pad.
# ONNX defines the whole padding that makes the output input / stride in size, and with SAME_UPPER an odd pixel is behind.
# Output seen, 2026-11-28: OpenCV always pads 1 px before the input of Conv and AveragePool. With stride 2 and SAME_UPPER, sizes
# of 7 are right, and those of 8 are computed 1 px to the left and above. With stride 3 and size 9, which need no padding,
# both are shifted. MaxPool with SAME_LOWER is right only where nothing is to be padded. ConvTranspose ignores SAME_UPPER and
# output_shape: 8 becomes 15 and 18 in place of 16. There is no warning, and both engines agree. With pads in place of
# auto_pad all are right.
# Consequence: a detector whose file has TensorFlow's padding as SAME_UPPER is shifted by a pixel in every layer that
# halves an even size, which are most of them: its features, and so boxes and scores, are others, without an error. Write
# pads as numbers, for one size of images.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check opencv-python-headless==5.0.0.93 onnx==1.23.2 \
    onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
cat > pad.py <<'PY'
import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto as T, helper as h

rng = np.random.default_rng(0)
WEIGHTS = {"Conv": rng.normal(size=(2, 3, 3, 3)), "ConvTranspose": rng.normal(size=(3, 2, 3, 3))}


def compute(operator, size, output_size, **options):
    """Return the output of onnxruntime and of both engines of OpenCV for noise of 3 x size x size."""
    x = np.random.default_rng(1).normal(size=(1, 3, size, size)).astype(np.float32)
    inputs, constants = ["x"], []
    if operator in WEIGHTS:
        w = WEIGHTS[operator]
        inputs, constants = ["x", "w"], [h.make_tensor("w", T.FLOAT, w.shape, w.ravel())]
    node = h.make_node(operator, inputs, ["y"], kernel_shape=[2, 2] if operator == "MaxPool" else [3, 3], **options)
    shape = (1, 2 if constants else 3, output_size, output_size)
    values = [h.make_tensor_value_info(name, T.FLOAT, s) for name, s in (("x", x.shape), ("y", shape))]
    graph = h.make_graph([node], "g", values[:1], values[1:], constants)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    outputs = [onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]]
    for engine in (cv2.dnn.ENGINE_CLASSIC, cv2.dnn.ENGINE_NEW):
        net = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8), engine=engine)
        net.setInput(x, "x")
        outputs.append(net.forward())
    return outputs


def is_equal(a, b):
    return a.shape == b.shape and np.allclose(a, b, atol=1e-4)


print("opencv", cv2.__version__, "onnxruntime", onnxruntime.__version__)
cases = [(o, s, p) for o in ("Conv", "AveragePool", "MaxPool") for s in ((7, 2), (8, 1), (8, 2), (9, 3)) for p in ("UPPER", "LOWER")]
wrong = set()
for operator, (size, stride), place in cases:
    if operator == "MaxPool" and stride == 3:  # its padding would be negative
        continue
    options = {"strides": [stride, stride], "auto_pad": f"SAME_{place}"}
    expected, *outputs = compute(operator, size, -(-size // stride), **options)
    results = {is_equal(expected, output) for output in outputs}
    print(f"{operator}, size {size}, stride {stride}, SAME_{place}: {'equal' if results == {True} else 'different'}")
    assert len(results) == 1, "the engines differ now"
    if results == {False}:
        wrong.add((operator, size, stride, place))
places = {(8, 2, "UPPER"), (9, 3, "UPPER"), (9, 3, "LOWER")}
expected = {(operator, *place) for operator in ("Conv", "AveragePool") for place in places}
assert wrong == expected | {("MaxPool", 7, 2, "LOWER"), ("MaxPool", 8, 1, "LOWER")}, "other cases are wrong now"

before, *_ = compute("Conv", 8, 4, strides=[2, 2], pads=[1, 1, 0, 0])
upper = compute("Conv", 8, 4, strides=[2, 2], auto_pad="SAME_UPPER")[1]
assert is_equal(before, upper), "OpenCV no longer pads before the input"
expected, *outputs = compute("Conv", 8, 4, strides=[2, 2], pads=[0, 0, 1, 1])
assert all(is_equal(expected, output) for output in outputs), "pads are no longer right"
for options, size in (({"auto_pad": "SAME_UPPER"}, 15), ({"output_shape": [16, 16]}, 18)):
    expected, *outputs = compute("ConvTranspose", 8, 16, strides=[2, 2], **options)
    print(f"ConvTranspose {options}: onnxruntime {expected.shape}, OpenCV {outputs[0].shape}")
    assert {output.shape for output in outputs} == {(1, 2, size, size)}, "ConvTranspose has changed"
PY
venv/bin/python pad.py
