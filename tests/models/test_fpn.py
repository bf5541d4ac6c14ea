import pytest
import torch

from libradet.errors import UserError
from libradet.models.config import PyramidConfig
from libradet.models.fpn import FeaturePyramid

CHANNELS = (16, 32, 64, 128)
CASES = {
    "neck_fpn": PyramidConfig(channels=32),
    "neck_fpn_retina": PyramidConfig(channels=32, start_stride=8, extra_levels="conv_on_c5"),
    "neck_pafpn": PyramidConfig(type="pafpn", channels=32),
}
OUR_NAMES = {
    "lateral_convs": "lateral",
    "fpn_convs": "output",
    "downsample_convs": "bottom_up",
    "pafpn_convs": "bottom_up_output",
}


def our_name(name: str, laterals: int) -> str:
    part, index, _, kind = name.removeprefix("state.").split(".")
    if part == "fpn_convs" and int(index) >= laterals:
        return f"extra_convs.{int(index) - laterals}.{kind}"
    return f"{OUR_NAMES[part]}.{index}.{kind}"


@pytest.mark.parametrize("case", CASES)
def test_levels_match_mmdetection(parity, case):
    z = parity(case)
    pyramid = FeaturePyramid(CHANNELS, CASES[case])
    laterals = len(pyramid.lateral)
    pyramid.load_state_dict({our_name(k, laterals): v for k, v in z.items() if k.startswith("state.")})
    levels = pyramid([z[f"in_{i}"] for i in range(4)])
    assert len(levels) == 5
    for i, level in enumerate(levels):
        torch.testing.assert_close(level, z[f"out_{i}"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["fpn", "pafpn"])
@pytest.mark.parametrize("extra", ["max_pool", "conv_on_c5", "conv_on_p5"])
@pytest.mark.parametrize(("first", "levels"), [(4, 4), (4, 6), (8, 3), (8, 5), (32, 1)])
def test_strides_shapes_and_gradients(kind, extra, first, levels):
    pyramid = FeaturePyramid(CHANNELS, PyramidConfig(kind, 8, levels, first, extra))
    strides = [first * 2**i for i in range(levels)]
    assert pyramid.strides == strides
    features = [torch.randn(1, c, 128 // s, 256 // s) for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)]
    out = pyramid(features)
    assert [tuple(x.shape) for x in out] == [(1, 8, max(128 // s, 1), 256 // s) for s in strides]
    sum(x.square().sum() for x in out).backward()
    for name, p in pyramid.named_parameters():
        assert p.grad is not None, name


def test_too_few_levels_are_refused():
    with pytest.raises(UserError, match=r"pyramid\.num_levels is 3"):
        FeaturePyramid(CHANNELS, PyramidConfig(num_levels=3))


def test_gradients_of_a_level_of_one_cell():
    """Memory is filled with NaN first, which some kernels of bf16 hand on as the gradient."""
    pyramid = FeaturePyramid(CHANNELS, PyramidConfig("fpn", 8, 6, 8, "conv_on_c5")).train()
    features = [
        torch.randn(2, c, s, s).to(memory_format=torch.channels_last)
        for c, s in zip(CHANNELS, (8, 4, 2, 1), strict=True)
    ]
    for _ in range(5):
        pyramid.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            levels = pyramid(features)[-3:]
        junk = [torch.full((p.numel() // k,), float("nan")) for p in pyramid.extra_convs.parameters() for k in (1, 2)]
        del junk
        sum(x.float().sum() for x in levels).backward()
        for layer in pyramid.extra_convs:
            gradient = layer.weight.grad
            assert gradient.isfinite().all()
            assert gradient[:, :, 1, 1].any()
            assert gradient.count_nonzero() == gradient[:, :, 1, 1].count_nonzero()


def test_a_level_of_one_cell_is_the_same_in_training_and_evaluation():
    pyramid = FeaturePyramid(CHANNELS, PyramidConfig("fpn", 8, 6, 8, "conv_on_p5", extra_relu=True))
    features = [torch.randn(2, c, s, s) for c, s in zip(CHANNELS, (8, 4, 2, 1), strict=True)]
    for one, other in zip(pyramid.train()(features), pyramid.eval()(features), strict=True):
        torch.testing.assert_close(one, other)
