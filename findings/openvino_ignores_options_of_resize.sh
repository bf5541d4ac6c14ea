#!/usr/bin/env bash
# Versions: onnx 1.23.2, onnxruntime 1.32.0, openvino 2026.4.1.
# Behavior: ONNX Resize (opset 18) with keep_aspect_ratio_policy (a letterbox in the graph), antialias and exclude_outside.
# Output seen, 2026-11-28: OpenVINO ignores all three without a warning. An image of 60 x 80 that is to fit into 96 x 96
# becomes 96 x 96 with not_larger and with not_smaller, where onnxruntime and ONNX's reference return 72 x 96 and 96 x 128.
# Results with antialias and exclude_outside are those without; of noise from 0 to 1, reduced to 27 x 27 with antialias,
# pixels differ from onnxruntime's by 0.46.
# Consequence: detectors that resize in the graph get distorted or aliased images, and boxes that are scaled back by one
# factor for both axes are wrong. Compute the size in the graph, and the weights of antialias too, or resize outside.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1
cd "$folder"
cat > resize.py <<'PY'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto as T, helper as h
from onnx.reference import ReferenceEvaluator


def resize(image, size, **options):
    """Return the images that onnxruntime, ONNX's reference and OpenVINO resize to a size (height, width)."""
    node = h.make_node("Resize", ["x", "", "", "size"], ["y"], axes=[2, 3], **options)
    values = [h.make_tensor_value_info("x", T.FLOAT, image.shape), h.make_tensor_value_info("y", T.FLOAT, [1, 1, None, None])]
    graph = h.make_graph([node], "resize", values[:1], values[1:], [h.make_tensor("size", T.INT64, [2], size)])
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    results = session.run(None, {"x": image})[0], ReferenceEvaluator(model).run(None, {"x": image})[0], compiled({"x": image})[0]
    return [np.array(result)[0, 0] for result in results]


print("onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__)
image = np.random.default_rng(0).random((1, 1, 60, 80), dtype=np.float32)
for policy, expected in (("stretch", (96, 96)), ("not_larger", (72, 96)), ("not_smaller", (96, 128))):
    shapes = [y.shape for y in resize(image, (96, 96), mode="linear", keep_aspect_ratio_policy=policy)]
    print(f"60 x 80 to 96 x 96, {policy}: onnxruntime, reference, OpenVINO: {shapes}")
    assert shapes == [expected, expected, (96, 96)], "OpenVINO's size, or that of the others, has changed"

cubic = {"mode": "cubic", "cubic_coeff_a": -0.5}
options = {"antialias": ((27, 27), {"mode": "linear"}), "exclude_outside": ((40, 50), cubic)}
for name, (size, others) in options.items():
    with_option, without = resize(image, size, **others, **{name: 1}), resize(image, size, **others)
    changes = [float(np.abs(a - b).max()) for a, b in zip(with_option, without)]
    difference = float(np.abs(with_option[2] - with_option[0]).max())
    print(f"{name} changes pixels by up to: onnxruntime, reference, OpenVINO: {[round(c, 3) for c in changes]};", end=" ")
    print(f"OpenVINO from onnxruntime: {difference:.3f}")
    assert min(changes[:2]) > 0.01 and np.abs(with_option[0] - with_option[1]).max() < 1e-4, "the others have changed"
    assert changes[2] == 0, f"OpenVINO no longer ignores {name}"
PY
venv/bin/python resize.py
