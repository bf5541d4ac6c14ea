"""Packed linear layers equal torch's."""

import pytest
import torch
from torch import nn

from libradet.models.ops.packed_linear import PackedLinear, pack_linear_layers


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
def test_output_is_that_of_the_layer_for_any_number_of_rows():
    torch.manual_seed(0)
    for bias in (True, False):
        model = nn.Sequential(nn.Linear(40, 24, bias=bias), nn.ReLU(), nn.Sequential(nn.Linear(24, 5))).eval()
        inputs = [torch.randn(rows, 40) for rows in (1, 7, 600)]
        with torch.inference_mode():
            expected = [model(x) for x in inputs]
            pack_linear_layers(model)
            assert isinstance(model[0], PackedLinear)
            assert isinstance(model[2][0], PackedLinear)
            for x, y in zip(inputs, expected, strict=True):
                torch.testing.assert_close(model(x), y, rtol=1e-5, atol=1e-5)


def test_layers_in_bf16_are_kept():
    model = nn.Sequential(nn.Linear(4, 4).bfloat16())
    pack_linear_layers(model)
    assert type(model[0]) is nn.Linear
