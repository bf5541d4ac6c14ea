#!/usr/bin/env bash
# Versions: apache-tvm 0.27.0.post1, onnx 1.23.2, onnxruntime 1.32.0 (numpy 2.4.6), on x86-64.
# Behavior: ONNX RoiAlign (opset 18) with coordinate_transformation_mode half_pixel, the default, of a feature map whose values
# are the numbers of its columns, for one box, at the strides 1, 2, 4, 8, 16 and 32 (spatial_scale 1 / stride).
# Output seen, 2026-11-29: TVM's frontend subtracts half a pixel from the box in the image, before the scale, where half a cell
# of the feature map has to be subtracted after it. With stride 1 the results are equal. With the others, TVM samples to the
# right of the right place, by 0.25 cells at stride 2, 0.375 at 4 and 0.469 at 16: 0.5, 1.5 and 7.5 px in the image, and 15.5 px
# at 32. output_half_pixel is right at all strides. There is no warning.
# Right value: the center of a box is that of its samples, so the mean of the ramp is center / stride - 0.5 columns.
# Consequence: second stages (Faster R-CNN, Mask R-CNN) that were trained with aligned RoIAlign get the features of a place up
# to half a cell beside each proposal, so that scores, boxes and masks are others, at one level more than at the next. Tests
# with a scale of 1 do not show it. Export RoiAlign with output_half_pixel and boxes moved by half a cell in the graph, which is
# the same for boxes of at least one cell.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.15.post2 \
    onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
cat > align.py <<'PY'
import os
from importlib.metadata import version

os.environ |= {"TVM_BIND_THREADS": "0", "TVM_NUM_THREADS": "1"}

import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import TensorProto, helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

SIZE = 64
FEATURES = np.tile(np.arange(SIZE, dtype=np.float32), (1, 1, SIZE, 1))
BATCH = np.zeros(1, np.int64)


def align(stride, mode):
    """Return the mean over a box of the numbers of columns, in onnxruntime and in TVM, and the right one."""
    box = np.array([[8, 8, 24, 24]], np.float32) * stride
    node = helper.make_node(
        "RoiAlign",
        ["features", "boxes", "batch"],
        ["y"],
        coordinate_transformation_mode=mode,
        output_height=7,
        output_width=7,
        sampling_ratio=2,
        spatial_scale=1 / stride,
    )
    inputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, FEATURES.shape),
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, box.shape),
        helper.make_tensor_value_info("batch", TensorProto.INT64, BATCH.shape),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 1, 7, 7))
    graph = helper.make_graph([node], "g", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"features": FEATURES, "boxes": box, "batch": BATCH})[0]
    program = tvm.compile(from_onnx(model), target=tvm.target.Target("llvm"))
    machine = relax.VirtualMachine(program, tvm.cpu())
    actual = machine["main"](*(tvm.runtime.tensor(array) for array in (FEATURES, box, BATCH))).numpy()
    center = 16 - 0.5 if mode == "half_pixel" else 16
    return [round(float(value), 4) for value in (expected.mean(), actual.mean(), center)]


print("tvm", version("apache-tvm"), "onnxruntime", version("onnxruntime"))
beside = {}
for mode in ("half_pixel", "output_half_pixel"):
    for stride in (1, 2, 4, 8, 16, 32):
        expected, actual, center = align(stride, mode)
        beside[mode, stride] = round((actual - expected) * stride, 3)
        print(f"{mode}, stride {stride}: onnxruntime {expected}, TVM {actual}, right {center};", end=" ")
        print(f"TVM is {beside[mode, stride]} px of the image beside")
        assert expected == center, "onnxruntime has changed"
expected = {1: 0, 2: 0.5, 4: 1.5, 8: 3.5, 16: 7.5, 32: 15.5}
seen = {stride: beside["half_pixel", stride] for stride in expected}
assert all(abs(seen[stride] - expected[stride]) < 0.02 for stride in expected), "half_pixel of TVM has changed"
assert all(abs(beside["output_half_pixel", stride]) < 0.02 for stride in expected), "output_half_pixel of TVM has changed"
PY
venv/bin/python align.py 2> messages.txt || { cat messages.txt >&2; exit 1; }
