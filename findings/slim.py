import numpy as np
import onnx
import onnxruntime
import onnxslim
from onnx import TensorProto as T, helper as h, numpy_helper

SHAPES = {"channels": (5, 1, 1), "columns": (5,), "columns, four axes": (1, 1, 1, 5), "rows": (5, 1)}


def compute(model, x):
    """Return the output of onnxruntime without its own optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def slim(operator, shape, size):
    """Return the operators afterwards, and the largest difference over the standard deviation."""
    generator = np.random.default_rng(0)
    transposed = operator == "ConvTranspose"
    x = generator.normal(size=(1, 2, size - 2, size - 2) if transposed else (1, 2, size + 2, size + 2)).astype(np.float32)
    constants = {"w": generator.normal(size=(2, 5, 3, 3) if transposed else (5, 2, 3, 3)), "k": generator.normal(size=shape)}
    weights = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    nodes = [h.make_node(operator, ["x", "w"], ["c"]), h.make_node("Mul", ["c", "k"], ["y"])]
    inputs = [h.make_tensor_value_info("x", T.FLOAT, x.shape)]
    outputs = [h.make_tensor_value_info("y", T.FLOAT, (1, 5, size, size))]
    graph = h.make_graph(nodes, "g", inputs, outputs, weights)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    expected = compute(model, x)
    smaller = onnxslim.slim(model)
    difference = np.abs(compute(smaller, x) - expected).max() / expected.std()
    return [node.op_type for node in smaller.graph.node], round(float(difference), 3)


print("onnxslim", onnxslim.__version__)
for operator in ("Conv", "ConvTranspose"):
    for name, shape in SHAPES.items():
        operators, difference = slim(operator, shape, 5)
        print(f"{operator}, a number for each of {name} {shape}: {operators}, difference {difference} standard deviations")
        assert operators == [operator], "operators are no longer merged"
        assert (difference < 1e-5) == (name == "channels") and (difference > 1) == (name != "channels"), "results have changed"
operators, difference = slim("Conv", (6,), 6)
print(f"Conv of 6 x 6, columns (6,): {operators}, difference {difference}")
assert operators == ["Conv", "Mul"] and difference < 1e-5, "another size is merged, too"
