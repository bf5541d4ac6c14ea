#!/usr/bin/env bash
# Versions: onnx 1.23.2, onnxruntime 1.32.0, openvino 2026.4.1.
# Behavior: ONNX NonMaxSuppression where boxes have equal scores, an IoU equal to the threshold, a score equal to the
# score threshold, and with 0 as the number of boxes.
# Output seen, 2026-11-27: both keep the lower row of equal scores, drop a score equal to its threshold, and keep nothing for 0 boxes. Of
# two boxes whose IoU equals the threshold, onnxruntime keeps both and OpenVINO one.
# Consequence: an export whose NMS keeps boxes up to and including the threshold can lose boxes in OpenVINO.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto as T, helper as h

def run(boxes, scores, count, iou, threshold):
    boxes, scores = np.array([boxes], np.float32), np.array([[scores]], np.float32)
    constants = [("count", T.INT64, count), ("iou", T.FLOAT, iou), ("threshold", T.FLOAT, threshold)]
    constants = [h.make_tensor(name, kind, [1], [value]) for name, kind, value in constants]
    node = h.make_node("NonMaxSuppression", ["boxes", "scores", "count", "iou", "threshold"], ["kept"])
    inputs = [h.make_tensor_value_info(n, T.FLOAT, a.shape) for n, a in (("boxes", boxes), ("scores", scores))]
    outputs = [h.make_tensor_value_info("kept", T.INT64, [None, 3])]
    graph = h.make_graph([node], "nms", inputs, outputs, constants)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    feeds, text = {"boxes": boxes, "scores": scores}, model.SerializeToString()
    session = onnxruntime.InferenceSession(text, providers=["CPUExecutionProvider"])
    compiled = openvino.compile_model(openvino.Core().read_model(text), "CPU")
    kept = session.run(None, feeds)[0], compiled(feeds)[0]
    return [[int(row[2]) for row in rows if row[2] >= 0] for rows in kept]

print("onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__, "(rows kept by each)")
apart = [[0, 10 * i, 5, 10 * i + 5] for i in range(40)]
half = [[0, 0, 4, 4], [0, 0, 4, 2]]  # IoU 0.5
cases = {
    "equal scores": ((apart, [0.5] * 40, 10, 0.5, 0.0), list(range(10)), list(range(10))),
    "IoU equal to its threshold": ((half, [0.9, 0.8], 2, 0.5, 0.0), [0, 1], [0]),
    "score equal to its threshold": ((apart[:3], [0.9, 0.5, 0.25], 3, 0.5, 0.5), [0], [0]),
    "0 boxes": ((apart[:3], [0.9, 0.5, 0.25], 0, 0.5, 0.0), [], []),
}
for name, (arguments, *expected) in cases.items():
    kept = run(*arguments)
    print(f"{name}: onnxruntime {kept[0]}, OpenVINO {kept[1]}")
    assert kept == expected, f"changed: {name}, expected {expected}"
PY
