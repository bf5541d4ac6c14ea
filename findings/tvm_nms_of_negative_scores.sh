#!/usr/bin/env bash
# Versions: apache-tvm 0.27.0.post1, onnx 1.23.2, onnxruntime 1.32.0 (numpy 2.4.6), on x86-64.
# Behavior: ONNX NonMaxSuppression of four boxes, two pairs whose IoU is 0.82, by scores that are probabilities or logits, with
# thresholds as constants of the graph and as inputs of it.
# Output seen, 2026-11-29: with probabilities and constants, TVM and onnxruntime keep one box of each pair. Of scores below 0,
# with a score threshold of -5, TVM keeps all four: a box whose score is not above 0 counts as removed when overlaps are
# removed, and as present when boxes are kept, unless its score is -1 or less: from -1.1 to -1.4 none is kept. Without a score
# threshold, TVM drops all scores below 0, where ONNX keeps them. An IoU threshold of 0 keeps nothing at all. Thresholds that
# are inputs are replaced: the IoU threshold by 0.5 (0.9 keeps two boxes in place of four), the score threshold by 0 (0.65 keeps
# four in place of three), and the number of boxes by 0 (nothing is kept). There is no warning.
# Right value: NMS depends on the order of scores alone, so if one number is subtracted from all of them, and from the score
# threshold, the same boxes remain. The scores 0.9, 0.8, 0.7, 0.6 are the others plus 1.
# Consequence: a graph that ranks boxes by logits, as one may since the order is the same, returns duplicates of every uncertain
# object, or no object; and one whose user passes a threshold ignores it. Apply the sigmoid before, and use constants.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.15.post2 \
    onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
cat > nms.py <<'PY'
import os
from importlib.metadata import version

os.environ |= {"TVM_BIND_THREADS": "0", "TVM_NUM_THREADS": "1"}

import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

BOXES = np.array([[[0, 0, 10, 10], [0, 1, 10, 11], [20, 20, 30, 30], [20, 21, 30, 31]]], np.float32)
PROBABILITIES = [0.9, 0.8, 0.7, 0.6]
LOGITS = [-0.1, -0.2, -0.3, -0.4]


def keep(scores, overlap, least=None, inputs=()):
    """Return the boxes that onnxruntime and TVM keep, where the named ones of max, overlap and least are inputs."""
    values = {"max": np.array([10]), "overlap": np.array([overlap], np.float32)}
    if least is not None:
        values["least"] = np.array([least], np.float32)
    feeds = {"boxes": BOXES, "scores": np.array([[scores]], np.float32)} | {name: values[name] for name in inputs}
    initializers = [numpy_helper.from_array(value, name) for name, value in values.items() if name not in inputs]
    types = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    node = helper.make_node("NonMaxSuppression", ["boxes", "scores", *values], ["y"])
    output = helper.make_tensor_value_info("y", TensorProto.INT64, ("n", 3))
    graph = helper.make_graph([node], "g", types, [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, feeds)[0]
    program = tvm.compile(from_onnx(model), target=tvm.target.Target("llvm"))
    result = relax.VirtualMachine(program, tvm.cpu())["main"](*(tvm.runtime.tensor(value) for value in feeds.values()))
    actual = (result if hasattr(result, "numpy") else result[0]).numpy()
    return expected[:, 2].tolist(), actual[:, 2].tolist()


CASES = {
    "probabilities": ((PROBABILITIES, 0.5, -4.0), ([0, 2], [0, 2])),
    "logits, score threshold -5": ((LOGITS, 0.5, -5.0), ([0, 2], [0, 1, 2, 3])),
    "logits minus 1, score threshold -5": (([score - 1 for score in LOGITS], 0.5, -5.0), ([0, 2], [])),
    "logits, no score threshold": ((LOGITS, 0.5), ([0, 2], [])),
    "IoU threshold 0": ((PROBABILITIES, 0.0), ([0, 2], [])),
    "IoU threshold 0.9": ((PROBABILITIES, 0.9), ([0, 1, 2, 3], [0, 1, 2, 3])),
    "IoU threshold 0.9 as input": ((PROBABILITIES, 0.9, None, ["overlap"]), ([0, 1, 2, 3], [0, 2])),
    "score threshold 0.65": ((PROBABILITIES, 0.9, 0.65), ([0, 1, 2], [0, 1, 2])),
    "score threshold 0.65 as input": ((PROBABILITIES, 0.9, 0.65, ["least"]), ([0, 1, 2], [0, 1, 2, 3])),
    "number of boxes 10 as input": ((PROBABILITIES, 0.5, None, ["max"]), ([0, 2], [])),
}
print("tvm", version("apache-tvm"), "onnxruntime", version("onnxruntime"))
for name, (arguments, expected) in CASES.items():
    seen = keep(*arguments)
    print(f"{name}: onnxruntime keeps {seen[0]}, TVM {seen[1]}")
    assert seen == expected, f"{name} has changed"
PY
venv/bin/python nms.py 2> messages.txt || { cat messages.txt >&2; exit 1; }
