#!/usr/bin/env bash
# Versions: onnx2torch 1.5.15 (onnx 1.23.2, onnxruntime 1.32.0, torch 2.15.0).
# Behavior: conversion of ONNX CumSum, with and without its attribute reverse, whose default is 0, and of NonZero.
# Output seen, 2026-11-28: CumSum without the attribute sums from the end: 1 2 3 4 becomes 10 9 7 4, where onnxruntime
# returns 1 3 6 10. With reverse=0 it is right. NonZero returns a row for each element, as torch.nonzero does, where
# ONNX defines a column; the Transpose that torch.onnx writes behind it then makes a row of the column.
# Consequence: files that leave out defaults, as ONNX allows, have other positional encodings (DETR sums its mask) or other
# indices in torch, without an error where shapes still agree.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnx2torch==1.5.15 onnx==1.23.2 onnxruntime==1.32.0 \
    torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cd "$folder"
cat > convert.py <<'PY'
from importlib.metadata import version

import numpy as np
import onnx
import onnx2torch
import onnxruntime
import torch
from onnx import TensorProto as T, helper as h


def compute(nodes, x, kind, shape):
    """Return the output of onnxruntime and of onnx2torch's module."""
    inputs, outputs = [h.make_tensor_value_info("x", T.FLOAT, x.shape)], [h.make_tensor_value_info("y", kind, shape)]
    graph = h.make_graph(nodes, "g", inputs, outputs, [h.make_tensor("axis", T.INT64, [], [0])])
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected, module = session.run(None, {"x": x})[0], onnx2torch.convert(model).eval()
    return expected.tolist(), module(torch.from_numpy(x)).tolist()


print("onnx2torch", version("onnx2torch"), "onnxruntime", onnxruntime.__version__)
x = np.array([1, 2, 3, 4], np.float32)
forward, backward = [1, 3, 6, 10], [10, 9, 7, 4]
for options, expected in (({}, (forward, backward)), ({"reverse": 0}, (forward, forward)), ({"reverse": 1}, (backward, backward))):
    result = compute([h.make_node("CumSum", ["x", "axis"], ["y"], **options)], x, T.FLOAT, [4])
    print(f"CumSum {options} of {x.tolist()}: onnxruntime {result[0]}, onnx2torch {result[1]}")
    assert result == expected, "CumSum has changed"

x = np.array([[1, 0, 2], [0, 3, 0]], np.float32)
result = compute([h.make_node("NonZero", ["x"], ["y"])], x, T.INT64, [2, None])
print(f"NonZero of {x.tolist()}: onnxruntime {result[0]}, onnx2torch {result[1]}")
assert result == ([[0, 0, 1], [0, 2, 1]], [[0, 0], [0, 2], [1, 1]]), "NonZero has changed"
nodes = [h.make_node("NonZero", ["x"], ["columns"]), h.make_node("Transpose", ["columns"], ["y"], perm=[1, 0])]
result = compute(nodes, np.array([0, 5, 0, 7], np.float32), T.INT64, [None, 1])
print(f"torch.nonzero of [0, 5, 0, 7], as torch.onnx writes it: onnxruntime {result[0]}, onnx2torch {result[1]}")
assert result == ([[1], [3]], [[1, 3]]), "NonZero with Transpose has changed"
PY
venv/bin/python -W ignore convert.py
