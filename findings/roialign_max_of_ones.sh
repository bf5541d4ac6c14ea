#!/usr/bin/env bash
# Versions: onnx 1.23.2, onnxruntime 1.32.0, openvino 2026.4.1.
# Behavior: ONNX RoiAlign (opset 16) with mode max and avg, of a feature map of ones, with two samples per bin.
# Output seen, 2026-11-28: max of ones is 0.59 to 0.89 in onnxruntime and in ONNX's reference, since it is that of each
# neighbor times its bilinear weight, not of the interpolated samples. In OpenVINO it is 1, and avg is 1 in all. onnxruntime
# logs a warning that this "is incorrect and will be fixed in the next ORT 1.13 release", once.
# Consequence: a graph with mode max gives other features in each runtime, which also depend on where a box lies between
# pixels. RoiAlign of more bins with mode avg and a MaxPool behind it does not.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1
cd "$folder"
cat > align.py <<'PY'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto as T, helper as h
from onnx.reference import ReferenceEvaluator


def align(mode):
    """Return a region's 2 x 2 bins, by onnxruntime, ONNX's reference and OpenVINO."""
    shapes = {"x": (T.FLOAT, [1, 1, 10, 10]), "boxes": (T.FLOAT, [1, 4]), "images": (T.INT64, [1])}
    inputs = [h.make_tensor_value_info(name, *shape) for name, shape in shapes.items()]
    output = h.make_tensor_value_info("y", T.FLOAT, [1, 1, 2, 2])
    node = h.make_node("RoiAlign", list(shapes), ["y"], mode=mode, output_height=2, output_width=2, sampling_ratio=2)
    model = h.make_model(h.make_graph([node], "g", inputs, [output]), opset_imports=[h.make_opsetid("", 16)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    box = np.array([[1.3, 1.7, 6.2, 7.9]], np.float32)
    feed = {"x": np.ones((1, 1, 10, 10), np.float32), "boxes": box, "images": np.zeros(1, np.int64)}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = session.run(None, feed)[0], ReferenceEvaluator(model).run(None, feed)[0], compiled(feed)[0]
    return [np.array(result).ravel() for result in results]


print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__)
for mode in ("avg", "max"):
    results = align(mode)
    for name, bins in zip(("onnxruntime", "reference", "OpenVINO"), results):
        print(f"RoiAlign of ones, mode {mode}, {name}: {bins.round(3)}")
    assert np.allclose(results[2], 1, atol=1e-5), "OpenVINO has changed"
    for bins in results[:2]:
        correct = np.allclose(bins, 1, atol=1e-5)
        assert correct if mode == "avg" else bins.max() < 0.9, f"mode {mode} of onnxruntime or the reference has changed"
PY
venv/bin/python align.py
