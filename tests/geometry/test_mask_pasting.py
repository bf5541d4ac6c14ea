import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes
from torchvision.ops import roi_align

from libradet.geometry.masks import crop_masks, pack_masks, paste_masks, unpack_masks


def paste_mask(mask, box, height, width, threshold=0.5):
    (window,) = paste_masks(mask.numpy()[None], box.double().numpy()[None], height, width, threshold)
    whole = np.zeros((height, width), bool)
    whole[window[0], window[1]] = window[2]
    return whole


def test_crops_match_torchvision_and_are_zero_where_invalid():
    masks = (torch.rand(2, 3, 40, 50) < 0.5).to(torch.uint8)
    corner = torch.rand(2, 6, 2) * 20
    boxes = torch.cat([corner, corner + 3 + torch.rand(2, 6, 2) * 25], dim=2)
    gt, valid = torch.randint(0, 3, (2, 6)), torch.rand(2, 6) < 0.6
    crops = crop_masks(masks, boxes, gt, valid, 14, 50)
    for b in range(2):
        rois = torch.cat([gt[b, :, None].float(), boxes[b]], dim=1)
        expected = roi_align(masks[b, :, None].float(), rois, 14, aligned=True)[:, 0]
        torch.testing.assert_close(crops[b], expected * valid[b, :, None, None])


def test_a_full_mask_fills_its_box():
    pasted = paste_mask(torch.ones(28, 28), torch.tensor([10.0, 5.0, 30.0, 20.0]), 40, 50)
    expected = np.zeros((40, 50), dtype=bool)
    expected[5:20, 10:30] = True
    np.testing.assert_array_equal(pasted, expected)


def test_crop_and_paste_restore_a_shape():
    y, x = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    shape = ((x - 40) / 25) ** 2 + ((y - 30) / 15) ** 2 <= 1
    box = torch.tensor([14.3, 14.6, 66.2, 45.7])
    crop = crop_masks(
        shape[None, None].float(), box[None, None], torch.zeros(1, 1).long(), torch.ones(1, 1).bool(), 28, 80
    )
    pasted = torch.from_numpy(paste_mask(crop[0, 0], box, 60, 80))
    assert (pasted & shape).sum() / (pasted | shape).sum() > 0.97


def test_boxes_outside_the_image_are_clipped_and_empty_ones_paste_nothing():
    pasted = paste_mask(torch.ones(28, 28), torch.tensor([-10.0, 20.0, 12.0, 90.0]), 40, 50)
    assert pasted[20:, :12].all()
    assert pasted.sum() == 20 * 12
    assert not paste_mask(torch.ones(28, 28), torch.tensor([3.0, 3.0, 3.0, 9.0]), 40, 50).any()


@given(st.integers(1, 40), st.integers(0, 3))
def test_pack_and_unpack_are_inverse(width, count):
    masks = torch.randint(0, 2, (count, 5, width), dtype=torch.uint8)
    packed = pack_masks(masks)
    assert packed.shape == (count, 5, -(-width // 8))
    assert unpack_masks(packed, width).equal(masks)


@pytest.mark.parametrize("width", [64, 61])
def test_packed_masks_are_cropped_like_unpacked_ones(width):
    masks = (torch.rand(2, 70, 24, width) < 0.5).to(torch.uint8)
    corner = torch.rand(2, 9, 2) * 20 - 4
    boxes = torch.cat([corner, corner + 1 + torch.rand(2, 9, 2) * 50], dim=2)
    gt, valid = torch.randint(-2, 70, (2, 9)), torch.rand(2, 9) < 0.7
    valid &= gt >= 0
    crops = crop_masks(pack_masks(masks), boxes, gt, valid, 7, width)
    assert torch.equal(crops, crop_masks(masks, boxes, gt, valid, 7, width))
    for b, s in valid.nonzero().tolist():
        rois = torch.cat([torch.zeros(1), boxes[b, s]])[None]
        expected = roi_align(masks[b, gt[b, s], None, None].float(), rois, 7, aligned=True)[0, 0]
        torch.testing.assert_close(crops[b, s], expected)
    assert (crops[~valid] == 0).all()


def test_targets_match_torchvision_up_to_half_a_pixel():
    """Torchvision cuts targets out without RoIAlign's half-pixel shift; apart from that they are the same."""
    masks = (torch.rand(5, 60, 80) < 0.5).to(torch.uint8)
    corner = torch.rand(12, 2) * 20
    boxes = torch.cat([corner, corner + 5 + torch.rand(12, 2) * 30], dim=1)
    rows = torch.randint(0, 5, (12,))
    ours = crop_masks(pack_masks(masks)[None], boxes[None], rows[None], torch.ones(1, 12).bool(), 28, 80)[0]
    torch.testing.assert_close(ours, project_masks_on_boxes(masks, boxes - 0.5, rows, 28))
    assert not torch.allclose(ours, project_masks_on_boxes(masks, boxes, rows, 28))


def interpolated(masks, boxes, height, width):
    """What mmdetection and detectron2 put into the whole image: grid_sample without aligned corners."""
    x0, y0, x1, y1 = boxes.double().T[..., None]
    y = (torch.arange(height) + 0.5 - y0) / (y1 - y0) * 2 - 1
    x = (torch.arange(width) + 0.5 - x0) / (x1 - x0) * 2 - 1
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], dim=3)
    return F.grid_sample(masks[:, None].double(), grid, align_corners=False)[:, 0]


def pasting_case(count=40, height=70, width=90):
    soft = F.interpolate(torch.randn(count, 1, 7, 7), (28, 28), mode="bicubic")[:, 0].mul(3).sigmoid()
    corner = torch.rand(count, 2) * torch.tensor([90.0, 70.0]) - 10
    return soft, torch.cat([corner, corner + 0.5 + torch.rand(count, 2) * 60], dim=1), height, width


def test_pasting_matches_mmdetection_and_detectron2():
    masks, boxes, height, width = pasting_case()
    expected = interpolated(masks, boxes, height, width)
    clear = ((expected - 0.5).abs() > 1e-5).numpy()
    assert clear.mean() > 0.999
    for i in range(len(masks)):
        ours = paste_mask(masks[i], boxes[i], height, width)
        np.testing.assert_array_equal(ours[clear[i]], (expected[i] >= 0.5).numpy()[clear[i]])


def test_pasting_matches_torchvision_except_for_its_rounding_of_boxes():
    """torchvision pastes into whole pixels: other masks, nowhere more than a pixel away."""
    masks, boxes, height, width = pasting_case(200)
    sides = boxes[:, 2:] - boxes[:, :2]
    inside = (boxes[:, :2].amin(1) > 1) & (boxes[:, 2] < width - 2) & (boxes[:, 3] < height - 2) & (sides.amin(1) > 20)
    masks, boxes = masks[inside], boxes[inside]
    assert len(masks) > 10
    theirs = paste_masks_in_image(masks[:, None], boxes, (height, width))[:, 0] >= 0.5
    ours = torch.stack([torch.from_numpy(paste_mask(m, b, height, width)) for m, b in zip(masks, boxes, strict=True)])
    assert (theirs != ours).any()
    for a, b in ((theirs, ours), (ours, theirs)):
        near = F.max_pool2d(b[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0
        assert (a & ~near).sum() == 0
