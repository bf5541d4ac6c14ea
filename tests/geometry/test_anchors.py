import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from libradet.geometry.anchors import base_anchors, grid_anchors, inside_image, within_border

PADDED_SIZE = (256, 320)
RPN = [(stride, (8.0,)) for stride in (4, 8, 16, 32, 64)]
RETINA = [(stride, tuple(4 * 2 ** (i / 3) for i in range(3))) for stride in (8, 16, 32, 64, 128)]
RATIOS = (0.5, 1.0, 2.0)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([4, 8, 16, 32, 64]),
    st.lists(st.floats(1, 32), min_size=1, max_size=4),
    st.lists(st.floats(0.1, 10), min_size=1, max_size=4),
    st.floats(0, 1),
)
def test_area_ratio_and_center(stride, scales, ratios, offset):
    boxes = base_anchors(stride, scales, ratios, offset).double().view(len(ratios), len(scales), 4)
    size = boxes[..., 2:] - boxes[..., :2]
    center = (boxes[..., 2:] + boxes[..., :2]) / 2
    side = torch.tensor(scales).double() * stride
    torch.testing.assert_close(size.prod(-1), (side**2).expand(len(ratios), -1), rtol=1e-4, atol=1e-2)
    ratio = torch.tensor(ratios).double()[:, None].expand(-1, len(scales))
    torch.testing.assert_close(size[..., 1] / size[..., 0], ratio, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(center, torch.full_like(center, offset * stride), rtol=1e-4, atol=1e-3)


def test_grid_by_hand():
    base = torch.tensor([[-1.0, -2, 1, 2], [0, 0, 1, 1]])
    grid = grid_anchors(base, 2, 3, 10)
    expected = [
        [x * 10 + b[0], y * 10 + b[1], x * 10 + b[2], y * 10 + b[3]]
        for y in range(2)
        for x in range(3)
        for b in base.tolist()
    ]
    assert grid.tolist() == expected


def test_rounded_anchors_match_torchvision():
    sizes = ((32,), (64,), (128,), (256,), (512,))
    theirs = AnchorGenerator(sizes, (RATIOS,) * 5)
    maps = [torch.zeros(1, 1, PADDED_SIZE[0] // s, PADDED_SIZE[1] // s) for s, _ in RPN]
    images = ImageList(torch.zeros(1, 3, *PADDED_SIZE), [PADDED_SIZE])
    ours = [
        grid_anchors(base_anchors(stride, scales, RATIOS, rounded=True), *x.shape[-2:], stride)
        for (stride, scales), x in zip(RPN, maps, strict=True)
    ]
    torch.testing.assert_close(torch.cat(ours), theirs(images, maps)[0])


@pytest.mark.parametrize(("kind", "levels"), [("rpn", RPN), ("retina", RETINA)])
def test_anchors_match_mmdetection(parity, kind, levels):
    z = parity("anchors")
    sizes = torch.tensor([[240, 300]])
    shapes = [(-(-PADDED_SIZE[0] // stride), -(-PADDED_SIZE[1] // stride)) for stride, _ in levels]
    for i, (stride, scales) in enumerate(levels):
        base = base_anchors(stride, scales, RATIOS)
        torch.testing.assert_close(base, z[f"{kind}.base_{i}"], atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(grid_anchors(base, *shapes[i], stride), z[f"{kind}.grid_{i}"], atol=1e-4, rtol=1e-5)
    inside = inside_image(shapes, [s for s, _ in levels], 3 * len(levels[0][1]), sizes)
    theirs = torch.cat([z[f"{kind}.valid_flags_240x300_{i}"] for i in range(5)])
    assert torch.equal(inside[0], theirs)


def test_inside_image_uses_the_size_of_each_image():
    inside = inside_image([(2, 2), (1, 1)], [8, 16], 1, torch.tensor([[16, 16], [8, 9], [1, 8]]))
    assert inside.tolist() == [
        [True, True, True, True, True],
        [True, True, False, False, True],
        [True, False, False, False, True],
    ]


@pytest.mark.parametrize("allowed", [0.0, 7.5])
def test_within_border_matches_the_rule_for_one_anchor(allowed):
    """Against the rule for a single anchor."""
    anchors, sizes = torch.randint(-20, 90, (200, 4)).float(), torch.tensor([[64, 80], [50, 40]])
    within = within_border(anchors, sizes, allowed)
    for b, (height, width) in enumerate(sizes.tolist()):
        for a, (x0, y0, x1, y1) in enumerate(anchors.tolist()):
            inside = x0 >= -allowed and y0 >= -allowed and x1 < width + allowed and y1 < height + allowed
            assert within[b, a] == inside
    assert within.any()
    assert not within.all()
