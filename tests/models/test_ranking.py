import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from libradet.models.ranking import best, rank


@given(st.integers(0, 1000), st.integers(1, 70), st.sampled_from([0.1, 3.0, 12.0, 40.0]))
def test_of_equal_scores_the_first_comes_first(seed, count, spread):
    logits = torch.randn(3, 60, generator=torch.Generator().manual_seed(seed)) * spread
    expected = logits.sigmoid().sort(dim=1, descending=True, stable=True).indices[:, :count]
    found = best(logits, count, "scores")
    scores = logits.sigmoid()
    assert torch.equal(scores.gather(1, found), scores.gather(1, expected))
    # Scores that underflow to 0 are no candidates of anything, so their order is left open.
    real = scores.gather(1, expected) > 0
    assert torch.equal(found[real], expected[real])


def test_neighboring_scores_of_a_large_level_keep_their_order():
    number = 300_000
    logits = torch.full((1, number), 1.0)
    logits[0, -1] = torch.tensor(1.0).nextafter(torch.tensor(2.0)) + 1e-6
    assert logits.sigmoid()[0, -1] > logits.sigmoid()[0, 0]
    assert best(logits, 3, "scores").tolist() == [[number - 1, 0, 1]]


def test_logits_tell_apart_what_scores_do_not():
    logits = torch.tensor([[18.0, 30.0, 19.0, -1.0]])
    assert best(logits, 3, "logits").tolist() == [[1, 2, 0]]
    assert best(logits, 3, "scores").tolist() == [[0, 1, 2]]
    assert torch.equal(rank(logits, "logits"), logits)
    assert rank(logits, "scores")[0, :3].tolist() == [1, 1, 1]


@pytest.mark.parametrize("by", ["logits", "scores"])
def test_fewer_than_asked_for(by):
    assert best(torch.tensor([[0.0, 1.0]]), 5, by).tolist() == [[1, 0]]


def test_compiles_and_exports_as_one_graph():
    # Without the run-time checks that the test suite installs, which are not meant to be compiled.
    plain = inspect.unwrap(best)

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
