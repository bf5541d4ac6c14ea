"""Similarity and contribution of pyramid levels, on levels with known answers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from libradet.analysis.levels.feature import PyramidStatistics, count_by_level_and_size, level_name, size_category
from libradet.balance import BalancedFeaturePyramid

SIZES = torch.tensor([[32, 32]])


def measured(*pyramid, sizes=SIZES, strides=(4, 4), target=0):
    statistics = PyramidStatistics(target)
    statistics.update([x.float() for x in pyramid], sizes, list(strides))
    return statistics.compute()


def rows_to_level(rows):
    """Cells in rows [64, C] as a level [1, C, 8, 8]."""
    return torch.as_tensor(rows).T.reshape(1, -1, 8, 8)


def test_equal_levels_are_alike_whatever_their_scale_and_rotation():
    x = torch.randn(64, 3, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    for other in (x, 5 * x + 2, x @ rotation):
        assert measured(rows_to_level(x), rows_to_level(other))["mean_cka"] == pytest.approx(1, abs=1e-5)


def test_orthogonal_levels_share_nothing():
    # Columns of a centered orthogonal basis, split between two levels.
    start = torch.cat([torch.ones(64, 1), torch.randn(64, 4)], 1).double()
    basis = torch.linalg.qr(start).Q[:, 1:]
    result = measured(rows_to_level(basis[:, :2]), rows_to_level(basis[:, 2:]))
    assert_close(torch.tensor(result["cka"]), torch.eye(2), atol=1e-5, rtol=0)
    assert result["mean_cka"] == pytest.approx(0, abs=1e-5)


@given(shared=st.floats(0.1, 0.9))
def test_similarity_of_a_mixture(shared):
    """x = a against y = √s*a + √(1 - s)*b: CKA is s for one channel each."""
    start = torch.cat([torch.ones(64, 1), torch.randn(64, 2)], 1).double()
    a, b = torch.linalg.qr(start).Q[:, 1:].T
    y = shared**0.5 * a + (1 - shared) ** 0.5 * b
    result = measured(rows_to_level(a[:, None]), rows_to_level(y[:, None]))
    assert result["cka"][0][1] == pytest.approx(shared, abs=1e-4)


def test_batches_add_up_to_one_large_one():
    x, y = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    whole, parts = PyramidStatistics(0), PyramidStatistics(0)
    whole.update([x, y], SIZES.expand(4, 2), [4, 4])
    for i in range(4):
        parts.update([x[i : i + 1], y[i : i + 1]], SIZES, [4, 4])
    assert_close(torch.tensor(whole.compute()["cka"]), torch.tensor(parts.compute()["cka"]), atol=1e-6, rtol=1e-5)


def test_against_the_definition_with_gram_matrices():
    fine, coarse = torch.randn(1, 3, 16, 16), torch.randn(1, 3, 8, 8)
    result = measured(fine, coarse, strides=(2, 4), target=1)["cka"][0][1]
    center = torch.eye(64) - 1 / 64
    x, y = (f.flatten(2)[0].T for f in (F.max_pool2d(fine, 2), coarse))
    k, m = center @ x @ x.T @ center, center @ y @ y.T @ center
    assert result == pytest.approx(float((k * m).sum() / (k.norm() * m.norm())), abs=1e-5)


def test_many_cells_are_thinned_out_evenly():
    x = torch.randn(1, 2, 64, 64)
    result = measured(x, 2 * x, sizes=torch.tensor([[256, 256]]))
    assert result["cka"][0][1] == pytest.approx(1)
    assert result["integration"] == pytest.approx([1 / 3, 2 / 3])


def test_padding_does_not_count():
    x, y = torch.randn(1, 2, 8, 8), torch.randn(1, 2, 8, 8)
    inside = measured(x[..., :6], y[..., :6], sizes=torch.tensor([[32, 24]]))
    padded = [torch.cat([t[..., :6], torch.full((1, 2, 8, 2), 1e3)], 3) for t in (x, y)]
    result = measured(*padded, sizes=torch.tensor([[32, 24]]))
    for key in ("cka", "rms", "integration"):
        assert_close(torch.tensor(result[key]), torch.tensor(inside[key]))


def test_shares_of_the_average_and_root_mean_squares():
    x = torch.randn(1, 2, 8, 8)
    result = measured(x, 3 * x)
    assert result["integration"] == pytest.approx([0.25, 0.75])
    rms = float(x.square().mean().sqrt())
    assert result["rms"] == pytest.approx([rms, 3 * rms])


def test_a_level_that_never_changes_shares_nothing():
    result = measured(torch.ones(1, 2, 8, 8), torch.randn(1, 2, 8, 8))
    assert result["cka"][0][1] == 0
    assert result["cka"][0][0] == 1


def test_plain_integration_makes_levels_more_alike():
    pyramid = [torch.randn(1, 4, 32 // s, 32 // s) for s in (1, 2, 4)]
    balanced = BalancedFeaturePyramid(4, level=1, refine="none")(pyramid)
    options = {"strides": (4, 8, 16), "target": 1, "sizes": torch.tensor([[128, 128]])}
    assert measured(*balanced, **options)["mean_cka"] > measured(*pyramid, **options)["mean_cka"]


def test_counts_by_level_and_size():
    kinds = size_category(torch.tensor([10.0, 32.0**2, 96.0**2 - 1, 96.0**2]))
    assert kinds.tolist() == [0, 1, 1, 2]
    assert count_by_level_and_size(torch.tensor([0, 0, 2, 2]), kinds, 3) == [[1, 1, 0], [0, 0, 0], [0, 1, 1]]
    assert (
        np.sum(count_by_level_and_size(torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64), 3))
        == 0
    )


def test_names_of_levels():
    assert [level_name(stride) for stride in (4, 8, 128)] == ["P2", "P3", "P7"]
