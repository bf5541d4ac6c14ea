"""Translations of the package's custom operators to ONNX give the operators' results."""

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import nn
from torch.export import Dim, export

from libradet.export.onnx_operators import OPSET, TRANSLATIONS
from libradet.geometry.indexing import topk_rows
from libradet.geometry.nms import batched_nms
from tests.helpers.exported_detectors import shape_checks_disabled
from tests.helpers.operator_cases import (
    ALIGN_CASES,
    ALIGN_OPTIONS,
    NMS_CASES,
    NMS_OPTIONS,
    align,
    assert_same_nms,
)


class AllNMS(nn.Module):
    """NMS with all options, in one graph."""

    def forward(self, boxes, scores, groups, valid):
        results = (batched_nms(boxes, scores, groups, valid, threshold=t, size=size) for t, size in NMS_OPTIONS)
        return [output for result in results for output in result]


class AllAligns(nn.Module):
    """RoIAlign with all options, in one graph."""

    def forward(self, fine, coarse, boxes, valid):
        return [align(fine, coarse, boxes, valid, *options) for options in ALIGN_OPTIONS]


class TopK(OpRun):
    """Puts the higher index first where values are equal, which ONNX leaves open."""

    def _run(self, x, k, axis=-1, largest=1, sorted=1):
        indices = x.shape[axis] - 1 - np.argsort(-np.flip(x, axis), axis=axis, kind="stable")
        indices = indices.take(range(int(k[0])), axis=axis)
        return np.take_along_axis(x, indices, axis), indices


def onnx_session(module, examples, num_dynamic_dims):
    """Export a module and return a function that runs it; ``num_dynamic_dims``: leading dynamic sides of each input."""
    session = onnxruntime.InferenceSession(
        exported(module, examples, num_dynamic_dims), providers=["CPUExecutionProvider"]
    )
    names = [i.name for i in session.get_inputs()]

    def run(*tensors):
        inputs = {name: t.numpy() for name, t in zip(names, tensors, strict=True)}
        return [torch.from_numpy(a) for a in session.run(None, inputs)]

    return run


def exported(module, examples, num_dynamic_dims):
    """Return the ONNX file of a module as bytes."""
    batch, number = Dim("batch", min=1), Dim("number", min=1)
    shapes = tuple(dict(zip(range(count), (batch, number), strict=False)) for count in num_dynamic_dims)
    with shape_checks_disabled():
        program = export(module, examples, dynamic_shapes=shapes, strict=False)
        options = {"custom_translation_table": TRANSLATIONS, "opset_version": OPSET, "verbose": False}
        return torch.onnx.export(program, optimize=False, **options).model_proto.SerializeToString()


def test_batched_nms():
    run = onnx_session(AllNMS(), NMS_CASES[1], (2, 2, 2, 2))
    for case in NMS_CASES:
        outputs = run(*case)
        for options, rows, filled in zip(NMS_OPTIONS, outputs[::2], outputs[1::2], strict=True):
            assert_same_nms(rows, filled, case, *options)


class OneNMS(nn.Module):
    """NMS that keeps some of many boxes."""

    def forward(self, boxes, scores, groups, valid):
        return batched_nms(boxes, scores, groups, valid, threshold=0.5, size=6)


class BestRows(nn.Module):
    """Top-k of fewer columns than there may be."""

    def forward(self, logits):
        return topk_rows(logits, 30, "logits")


def test_topk_does_not_depend_on_the_order_of_equal_values():
    logits = torch.randint(0, 5, (3, 50), generator=torch.Generator().manual_seed(0)) / 4
    graph = onnx.load_from_string(exported(BestRows(), (logits,), (1,)))
    rows = ReferenceEvaluator(graph, new_ops=[TopK]).run(None, {graph.graph.input[0].name: logits.numpy()})[0]
    assert rows.tolist() == np.argsort(-logits.numpy(), axis=1, kind="stable")[:, :30].tolist()


def test_nms_does_not_depend_on_the_order_of_equal_values():
    rng = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 12, (2, 24, 2), generator=rng).float()
    boxes = torch.cat([corners, corners + 8], 2)
    scores = torch.randint(1, 5, (2, 24), generator=rng) / 4
    groups = torch.randint(0, 2, (2, 24), generator=rng)
    valid = torch.rand(2, 24, generator=rng) < 0.8
    case = boxes, scores, groups, valid
    graph = onnx.load_from_string(exported(OneNMS(), case, (2, 2, 2, 2)))
    evaluator = ReferenceEvaluator(graph, new_ops=[TopK])
    inputs = {name: t.numpy() for name, t in zip(evaluator.input_names, case, strict=True)}
    rows, filled = evaluator.run(None, inputs)
    expected_rows, expected_filled = OneNMS()(*case)
    assert rows.tolist() == expected_rows.tolist()
    assert filled.tolist() == expected_filled.tolist()


def test_pyramid_roi_align():
    run = onnx_session(AllAligns(), ALIGN_CASES[0], (1, 1, 2, 2))
    for case in ALIGN_CASES:
        for options, pooled in zip(ALIGN_OPTIONS, run(*case), strict=True):
            torch.testing.assert_close(pooled, align(*case, *options), rtol=1e-5, atol=1e-5)
