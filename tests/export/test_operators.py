"""The package's own operators, said in ONNX's and in torchvision's terms, give what they give themselves."""

import numpy as np
import onnxruntime
import pytest
import torch
from exported_detectors import unchecked
from torch import nn
from torch.export import Dim, export

from libradet.export import program_operators
from libradet.export.onnx_operators import OPSET, TRANSLATIONS
from libradet.export.overlaps import double_threshold, single_threshold
from libradet.geometry import roi_align
from libradet.geometry.roi_align import pyramid_roi_align
from libradet.geometry.suppression import suppress

STRIDES = [4, 8]


SUPPRESSIONS = [(0.5, 20), (0.6, 8), (0.7, 200)]
ALIGNMENTS = [(True, 2), (True, 0), (False, 2), (False, 0)]


def align(fine, coarse, boxes, valid, aligned, sampling_ratio):
    how = {"size": 5, "canonical_size": 16.0, "canonical_level": 3}
    levels = [fine, coarse]
    return pyramid_roi_align(levels, boxes, valid, STRIDES, aligned=aligned, sampling_ratio=sampling_ratio, **how)


class Suppressions(nn.Module):
    """One after the other."""

    def forward(self, boxes, scores, groups, valid):
        every = (suppress(boxes, scores, groups, valid, threshold=t, size=size) for t, size in SUPPRESSIONS)
        return [output for pair in every for output in pair]


class Alignments(nn.Module):
    """Side by side."""

    def forward(self, fine, coarse, boxes, valid):
        return [align(fine, coarse, boxes, valid, *how) for how in ALIGNMENTS]


def onnx_session(module, examples, sizes):
    """``sizes``: which sides of each input are open."""
    batch, number = Dim("batch", min=1), Dim("number", min=1)
    shapes = tuple(dict(zip(range(open_sides), (batch, number), strict=False)) for open_sides in sizes)
    with unchecked():
        program = export(module, examples, dynamic_shapes=shapes, strict=False)
        options = {"custom_translation_table": TRANSLATIONS, "opset_version": OPSET, "verbose": False}
        file = torch.onnx.export(program, optimize=False, **options).model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def run(*tensors):
        given = {name: t.numpy() for name, t in zip(names, tensors, strict=True)}
        return [torch.from_numpy(a) for a in session.run(None, given)]

    return run


def candidates(images, number, groups=3, seed=0, whole=False, share=0.8):
    """Overlapping boxes; with ``whole`` numbers overlaps and scores are equal to others, and to thresholds."""
    noise = torch.Generator().manual_seed(seed)
    corner, side = (torch.rand(images, number, 2, generator=noise) for _ in range(2))
    boxes = torch.cat([corner * 30, corner * 30 + side * 20 + 1], 2)
    scores = torch.randn(images, number, generator=noise)
    if whole:
        boxes, scores = (boxes / 5).round() * 5, (scores * 2).round() / 2
    valid = torch.rand(images, number, generator=noise) < share
    return boxes, scores, torch.randint(0, groups, (images, number), generator=noise), valid


CASES = [
    candidates(1, 60),
    candidates(3, 50, seed=1),
    candidates(2, 70, seed=2, whole=True),
    candidates(2, 70, groups=1, seed=3, whole=True),
    candidates(2, 5, seed=4),
    candidates(3, 40, seed=5, share=0.05),
    candidates(2, 30, seed=6, share=0.0),
]


def assert_suppressed_alike(rows, filled, case, threshold, size):
    expected_rows, expected = suppress(*case, threshold=threshold, size=size)
    assert torch.equal(filled, expected)
    assert torch.equal(rows * filled, expected_rows * expected)


def test_suppression_in_onnx():
    run = onnx_session(Suppressions(), CASES[1], (2, 2, 2, 2))
    for case in CASES:
        found = run(*case)
        for how, rows, filled in zip(SUPPRESSIONS, found[::2], found[1::2], strict=True):
            assert_suppressed_alike(rows, filled, case, *how)


@pytest.mark.parametrize(("threshold", "size"), SUPPRESSIONS)
@pytest.mark.parametrize("case", CASES)
def test_suppression_in_torchvision(case, threshold, size):
    found = program_operators.suppress(*case, threshold, size)
    assert_suppressed_alike(*found, case, threshold, size)


def regions(images=2, number=20, seed=0, share=0.8):
    noise = torch.Generator().manual_seed(seed)
    fine, coarse = (torch.randn(images, 3, 64 // s, 96 // s, generator=noise) for s in STRIDES)
    corner = torch.rand(images, number, 2, generator=noise) * 70 - 8
    boxes = torch.cat([corner, corner + torch.rand(images, number, 2, generator=noise) * 50], 2)
    boxes[:, 0, 2:] = boxes[:, 0, :2]  # without area
    return fine, coarse, boxes, torch.rand(images, number, generator=noise) < share


REGIONS = [regions(), regions(3, 7, 1), regions(1, 1, 2, share=1.1), regions(2, 9, 3, share=0.0)]


@pytest.mark.parametrize("how", ALIGNMENTS)
def test_roi_align_in_torchvision(how, monkeypatch):
    expected = [align(*case, *how) for case in REGIONS]
    monkeypatch.setattr(roi_align, "_pyramid_roi_align", program_operators.pyramid_roi_align)
    for case, own in zip(REGIONS, expected, strict=True):
        torch.testing.assert_close(align(*case, *how), own, rtol=1e-5, atol=1e-5)


def test_roi_align_in_onnx():
    run = onnx_session(Alignments(), REGIONS[0], (1, 1, 2, 2))
    for case in REGIONS:
        for how, found in zip(ALIGNMENTS, run(*case), strict=True):
            torch.testing.assert_close(found, align(*case, *how), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6, 0.7, 0.9])
def test_thresholds_are_compared_as_torch_does(threshold):
    """0.6 in 32 bits is more than 0.6 in 64 bits, 0.7 is less."""
    nearest = np.float32(threshold)
    overlaps = np.array([np.nextafter(nearest, np.float32(0)), nearest, np.nextafter(nearest, np.float32(1))])
    expected = overlaps.astype(np.float64) > threshold
    assert ((overlaps > np.float32(single_threshold(threshold))) == expected).all()
    # What lies as near as can be told to each of them rounds to it.
    for side in (-1, 1):
        nearby = overlaps.astype(np.float64) + side * 0.49 * np.spacing(nearest)
        assert ((nearby > double_threshold(threshold)) == expected).all()
