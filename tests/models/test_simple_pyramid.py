"""The simple feature pyramid equals detectron2's, and a plain computation of what the paper describes."""

import math

import pytest
import torch
import torch.nn.functional as F

from libradet.errors import UserError
from libradet.models.config import PyramidConfig
from libradet.models.detector import Detector
from libradet.models.simple_pyramid import SimpleFeaturePyramid
from libradet.models.zoo import make_config

# Of detectron2's SimpleFeaturePyramid in float64 (commit 02b5c4e2, norm "LN") on the weights and input of `wave`:
# sum, sum of absolute values, and two values of each of p2 to p5.
DETECTRON2 = [
    (160.11534606, 1097.22292326, 0.82641018, -0.08640292),
    (-17.80229865, 258.99600093, 0.26150502, 1.06887911),
    (31.44462588, 65.94080726, 0.92548437, 1.23175505),
    (-12.63014765, 20.124454, -0.48227069, -0.70432435),
]


def wave(shape, phase):
    count = torch.Size(shape).numel()
    return torch.cos(phase + 0.37 * torch.arange(count, dtype=torch.float64)).reshape(shape)


def waving_pyramid(**config):
    config = PyramidConfig(type="simple", channels=4, norm="layer", **config)
    pyramid = SimpleFeaturePyramid(8, config).double()
    state = pyramid.state_dict()
    pyramid.load_state_dict({name: wave(state[name].shape, i) for i, name in enumerate(sorted(state))})
    return pyramid, wave((1, 8, 4, 6), 0.5)


def layer_norm(x, weight, bias):
    centered = x - x.mean(1, keepdim=True)
    scaled = centered / (centered.square().mean(1, keepdim=True) + 1e-6).sqrt()
    return scaled * weight[:, None, None] + bias[:, None, None]


def twice_as_large(x, weight, bias):
    """A transposed convolution of size 2 and stride 2: each cell becomes four."""
    cells = torch.einsum("bchw,coij->bohiwj", x, weight)
    return cells.flatten(4).flatten(2, 3) + bias[:, None, None]


def expected_levels(x, state):
    def part(name):
        return state[f"{name}.weight"], state[f"{name}.bias"]

    middle = layer_norm(twice_as_large(x, *part("resample.0.0")), *part("resample.0.1"))
    middle = middle * (1 + torch.erf(middle / math.sqrt(2))) / 2
    quarters = x.unfold(2, 2, 2).unfold(3, 2, 2)
    maps = [
        twice_as_large(middle, *part("resample.0.3")),
        twice_as_large(x, *part("resample.1")),
        x,
        quarters.amax((-2, -1)),
    ]
    for i, features in enumerate(maps):
        reduced = torch.einsum("bchw,oc->bohw", features, state[f"reduce.{i}.conv.weight"][:, :, 0, 0])
        reduced = layer_norm(reduced, *part(f"reduce.{i}.norm"))
        windows = F.pad(reduced, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)
        output = torch.einsum("bchwij,ocij->bohw", windows, state[f"output.{i}.conv.weight"])
        yield layer_norm(output, *part(f"output.{i}.norm"))


def test_levels_equal_those_of_detectron2():
    pyramid, x = waving_pyramid()
    levels = pyramid([x])
    for level, values in zip(levels, DETECTRON2, strict=False):
        ours = [level.sum(), level.abs().sum(), level[0, 1, 1, 1], level[0, 3, -1, 0]]
        assert torch.stack(ours).tolist() == pytest.approx(values, abs=1e-7)
    assert torch.equal(levels[4], levels[3][:, :, ::2, ::2])


def test_levels_are_what_the_paper_describes():
    pyramid, x = waving_pyramid()
    levels = pyramid([x])
    for level, expected in zip(levels, expected_levels(x, pyramid.state_dict()), strict=False):
        torch.testing.assert_close(level, expected)
    assert pyramid.strides == [4, 8, 16, 32, 64]
    assert [tuple(level.shape[2:]) for level in levels] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]


def test_levels_from_stride_8_with_convolutions():
    pyramid, x = waving_pyramid(start_stride=8, extra_levels="conv_on_p5")
    assert pyramid.strides == [8, 16, 32, 64, 128]
    levels = pyramid([x])
    assert [tuple(level.shape[2:]) for level in levels] == [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    torch.testing.assert_close(levels[3], pyramid.extra_convs[0](levels[2]))


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_other_norms(norm):
    config = PyramidConfig(type="simple", channels=32, norm=norm)
    levels = SimpleFeaturePyramid(64, config)([torch.randn(2, 64, 4, 4)])
    assert [level.shape[1] for level in levels] == [32] * 5


@pytest.mark.parametrize(
    ("backbone", "settings", "message"),
    [
        ("test_vit", {"type": "fpn"}, r"one feature map of stride 16: set pyramid\.type to simple"),
        ("test_vit", {"type": "simple", "extra_levels": "conv_on_c5"}, "set it to conv_on_p5"),
        ("test_resnet", {"type": "simple"}, r"for plain ViTs, not for 'test_resnet': set it to fpn"),
    ],
)
def test_pyramids_that_do_not_fit_are_refused(backbone, settings, message):
    config = make_config("faster_rcnn", 3, backbone)
    config.pyramid = PyramidConfig(**settings)
    with pytest.raises(UserError, match=message):
        Detector(config)


def test_too_few_levels_are_refused():
    with pytest.raises(UserError, match="num_levels is 3; set it to at least 4"):
        SimpleFeaturePyramid(8, PyramidConfig(type="simple", num_levels=3))


@pytest.mark.parametrize(("name", "extra"), [("retinanet", "conv_on_p5"), ("libra_faster_rcnn", "max_pool")])
def test_plain_vits_get_the_pyramid_of_vitdet(name, extra):
    config, plain = make_config(name, 3, "test_vit"), make_config(name, 3)
    assert (config.pyramid.type, config.pyramid.norm, config.pyramid.extra_levels) == ("simple", "layer", extra)
    assert config.pyramid.start_stride == plain.pyramid.start_stride
    assert config.pyramid.balanced == plain.pyramid.balanced
    assert plain.pyramid.type == "fpn"
    assert make_config(name, 3, "test_vit", config).pyramid == config.pyramid
