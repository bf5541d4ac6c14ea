import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from libradet.geometry.indexing import gather_rows, sort_key, topk_per_level, topk_rows


@given(st.integers(0, 1000), st.integers(1, 70), st.sampled_from([0.1, 3.0, 12.0, 40.0]))
def test_equal_scores_are_sorted_by_row(seed, count, spread):
    logits = torch.randn(3, 60, generator=torch.Generator().manual_seed(seed)) * spread
    expected = logits.sigmoid().sort(dim=1, descending=True, stable=True).indices[:, :count]
    rows = topk_rows(logits, count, "scores")
    scores = logits.sigmoid()
    assert torch.equal(scores.gather(1, rows), scores.gather(1, expected))
    # Scores that underflow to 0 are no candidates of anything, so their order is left open.
    real = scores.gather(1, expected) > 0
    assert torch.equal(rows[real], expected[real])


def test_adjacent_scores_of_a_large_level_keep_their_order():
    number = 300_000
    logits = torch.full((1, number), 1.0)
    logits[0, -1] = torch.tensor(1.0).nextafter(torch.tensor(2.0)) + 1e-6
    assert logits.sigmoid()[0, -1] > logits.sigmoid()[0, 0]
    assert topk_rows(logits, 3, "scores").tolist() == [[number - 1, 0, 1]]


def test_logits_distinguish_equal_scores():
    logits = torch.tensor([[18.0, 30.0, 19.0, -1.0]])
    assert topk_rows(logits, 3, "logits").tolist() == [[1, 2, 0]]
    assert topk_rows(logits, 3, "scores").tolist() == [[0, 1, 2]]
    assert torch.equal(sort_key(logits, "logits"), logits)
    assert sort_key(logits, "scores")[0, :3].tolist() == [1, 1, 1]


@pytest.mark.parametrize("by", ["logits", "scores"])
def test_fewer_candidates_than_k(by):
    assert topk_rows(torch.tensor([[0.0, 1.0]]), 5, by).tolist() == [[1, 0]]


def test_compiles_and_exports_as_one_graph():
    # Without the run-time checks that the test suite installs, which are not meant to be compiled.
    plain = inspect.unwrap(topk_rows)

    class Best(torch.nn.Module):
        def forward(self, logits):
            return plain(logits, 5, "scores")

    logits = torch.randn(2, 40)
    expected = Best()(logits)
    assert torch.equal(torch.compile(Best(), backend="eager", fullgraph=True)(logits), expected)
    program = torch.export.export(Best(), (logits,))
    assert torch.equal(program.module()(logits), expected)
    # Few exporters and devices know 64-bit floats, and ONNX's TopK takes the first of equals by itself.
    assert "float64" not in program.graph_module.code


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 3)])
def test_gather_rows(shape):
    values = torch.randn(shape)
    index = torch.tensor([[4, 0, 0], [1, -1, -2]])
    expected = torch.stack([values[b][index[b].clamp(min=0)] for b in range(2)])
    assert torch.equal(gather_rows(values, index), expected)


@pytest.mark.parametrize("by", ["logits", "scores"])
def test_topk_per_level_selects_the_best_rows_of_each_level(by):
    logits, level_sizes = torch.randn(2, 36), (30, 4, 2)
    rows = topk_per_level(logits, level_sizes, 3, by)
    assert [r.shape for r in rows] == [(2, 3), (2, 3), (2, 2)]
    for b in range(2):
        start = 0
        for level_rows, size in zip(rows, level_sizes, strict=True):
            expected = logits[b, start : start + size].sort(descending=True).indices[:3] + start
            assert torch.equal(level_rows[b], expected)
            start += size
