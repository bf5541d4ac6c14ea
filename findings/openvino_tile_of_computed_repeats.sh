#!/usr/bin/env bash
# Versions: onnx 1.23.2, onnxruntime 1.32.0, openvino 2026.4.1, on x86-64.
# Behavior: ONNX Tile of four axes, with the number of repeats as a constant of the graph, and as an input of it, as in
# graphs that compute it from the size of the image or batch.
# Output seen, 2026-11-28: OpenVINO's result has the right shape. With constants its values are right as well. With repeats
# from an input that are above 1 for three axes or more which all have more than one element, the last one included, no
# value is right: they are arbitrary, without an error or a warning. onnxruntime is right in all cases.
# Consequence: a graph that works with a fixed size gives arbitrary numbers with a dynamic one. Two Tiles of two axes each
# are right.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1
cd "$folder"
cat > tile.py <<'PY'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto as T, helper as h


def tile(shape, steps, constant):
    """Return the share of values, of onnxruntime and OpenVINO, that differ from NumPy's; each step is a Tile."""
    x, names = np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape), [f"r{i}" for i in range(len(steps))]
    feed = {"x": x} | ({} if constant else {name: np.array(step) for name, step in zip(names, steps)})
    inputs = [h.make_tensor_value_info(name, T.FLOAT if name == "x" else T.INT64, value.shape) for name, value in feed.items()]
    constants = [h.make_tensor(name, T.INT64, [4], step) for name, step in zip(names, steps)] if constant else []
    tensors = ["x", *(f"h{i}" for i in range(1, len(steps))), "y"]
    nodes = [h.make_node("Tile", [tensors[i], name], [tensors[i + 1]]) for i, name in enumerate(names)]
    graph = h.make_graph(nodes, "g", inputs, [h.make_tensor_value_info("y", T.FLOAT, [None] * 4)], constants)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 16)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    content, core = model.SerializeToString(), openvino.Core()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    expected = np.tile(x, np.prod(steps, axis=0))
    results = session.run(None, feed)[0], np.array(compiled(feed)[0])
    assert all(result.shape == expected.shape for result in results)
    return [round(float((result != expected).mean()), 2) for result in results]


print("onnxruntime", onnxruntime.__version__, "openvino", openvino.__version__)
cases = {
    ((2, 3, 4, 5), ((2, 2, 2, 2),)): False,
    ((2, 3, 4, 5), ((1, 2, 2, 2),)): False,
    ((2, 3, 4, 5), ((2, 2, 2, 1),)): True,
    ((2, 3, 4, 5), ((1, 1, 2, 2),)): True,
    ((1, 3, 1, 5), ((2, 2, 2, 2),)): True,
    ((2, 3, 4, 5), ((2, 2, 1, 1), (1, 1, 2, 2))): True,
}
for (shape, steps), right in cases.items():
    constant, computed = tile(shape, steps, True), tile(shape, steps, False)
    print(f"Tile of {shape} by {steps}: values wrong in onnxruntime and OpenVINO: constant {constant}, from an input {computed}")
    assert constant == [0, 0] and computed[0] == 0, "constants, or onnxruntime, have changed"
    assert computed[1] == 0 if right else computed[1] > 0.5, "OpenVINO has changed"
PY
venv/bin/python tile.py
