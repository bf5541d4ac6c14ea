#!/usr/bin/env bash
# Versions: onnxscript 0.7.2 (onnx-ir 1.1.0), onnx 1.23.2, onnxruntime 1.32.0 (numpy 2.4.6), on x86-64.
# Behavior: onnxscript.optimizer.optimize of an ONNX Conv of 20 x 20 with a kernel of 3 x 3, auto_pad SAME_UPPER or SAME_LOWER,
# stride 1 and 2, dilation 1, 2 and 6, whose size ONNX defines as input / stride, rounded up.
# Output seen, 2026-11-29: the optimizer writes auto_pad as numbers, with the padding that dilation 1 would need. With dilation
# 1 the output stays as it was; with 2, 20 x 20 becomes 18 x 18 and 10 x 10 becomes 9 x 9; with 6, they become 10 x 10 and 5 x 5.
# There is no message, the checker accepts the result, and its declared sizes are still 20 and 10. onnxruntime
# refuses the original ("Dilation not supported for AutoPadType::SAME_UPPER") and runs the optimized one, so the optimizer seems to help.
# Right value: the original in ONNX's ReferenceEvaluator, equal to the same Conv with the right padding as numbers.
# Consequence: dilated backbones and atrous heads that TensorFlow's padding describes so have smaller features, whose cells no
# longer belong to their anchors. Write pads as numbers before optimizing, (kernel - 1) * dilation in sum for stride 1.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnxscript==0.7.2 onnx-ir==1.1.0 onnx==1.23.2 \
    onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
cat > optimize.py <<'PY'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxscript import optimizer

onnxruntime.set_default_logger_severity(4)
rng = np.random.default_rng(0)
X = rng.normal(size=(1, 1, 20, 20)).astype(np.float32)
W = rng.normal(size=(1, 1, 3, 3)).astype(np.float32)


def create(stride, dilation, side, padding):
    """Return a model of one convolution."""
    options = {"kernel_shape": [3, 3], "strides": [stride] * 2, "dilations": [dilation] * 2} | padding
    node = helper.make_node("Conv", ["x", "w"], ["y"], **options)
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 1, s, s)) for n, s in (("x", 20), ("y", side))]
    graph = helper.make_graph([node], "g", values[:1], values[1:], [numpy_helper.from_array(W, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model):
    """Return the output of onnxruntime."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})[0]


print("onnxscript", version("onnxscript"), "onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
seen = {}
for name in ("SAME_UPPER", "SAME_LOWER"):
    for stride in (1, 2):
        for dilation in (1, 2, 6):
            side = 20 // stride
            model = create(stride, dilation, side, {"auto_pad": name})
            total = (side - 1) * stride + 2 * dilation + 1 - 20
            less, more = total // 2, total - total // 2
            pads = [less, less, more, more] if name == "SAME_UPPER" else [more, more, less, less]
            expected = ReferenceEvaluator(model).run(None, {"x": X})[0]
            assert np.allclose(run(create(stride, dilation, side, {"pads": pads})), expected, atol=1e-5), "numbers differ"
            try:
                run(model)
                before = "runs"
            except Exception as error:
                assert "Dilation not supported for AutoPadType" in str(error), "the error has changed"
                before = "refused"
            optimized = optimizer.optimize(model)
            onnx.checker.check_model(optimized)
            declared = optimized.graph.output[0].type.tensor_type.shape.dim[2].dim_value
            written = [list(a.ints) for a in optimized.graph.node[0].attribute if a.name == "pads"]
            actual = run(optimized)
            right = actual.shape == expected.shape and np.allclose(actual, expected, atol=1e-5)
            seen[name, stride, dilation] = (before, declared, actual.shape[2], right)
            print(
                f"{name} stride {stride} dilation {dilation}: {before} by onnxruntime, optimized has pads {written}, "
                f"size {actual.shape[2]}, declared {declared}, {'right' if right else f'right are {pads} and {side}'}"
            )
for (name, stride, dilation), results in seen.items():
    side = 20 // stride
    wrong = {(1, 2): 18, (2, 2): 9, (1, 6): 10, (2, 6): 5}
    expected = ("runs", side, side, True) if dilation == 1 else ("refused", side, wrong[stride, dilation], False)
    assert results == expected, f"{name} {stride} {dilation} has changed"
PY
venv/bin/python optimize.py 2> messages.txt || { cat messages.txt >&2; exit 1; }
