import numpy as np
import torch
from torchvision.ops import roi_align

from libradet.geometry.masks import crop_masks, pack_masks, paste_masks, unpack_masks


def paste_mask(mask, box, height, width, threshold=0.5):
    (window,) = paste_masks(mask.numpy()[None], box.double().numpy()[None], height, width, threshold)
    whole = np.zeros((height, width), bool)
    whole[window[0], window[1]] = window[2]
    return whole


def test_crops_are_torchvisions_and_zero_where_not_valid():
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


def test_a_shape_comes_back_where_it_was():
    y, x = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    shape = ((x - 40) / 25) ** 2 + ((y - 30) / 15) ** 2 <= 1
    box = torch.tensor([14.3, 14.6, 66.2, 45.7])
    crop = crop_masks(shape[None, None].float(), box[None, None], torch.zeros(1, 1).long(), torch.ones(1, 1).bool(), 28, 80)
    pasted = torch.from_numpy(paste_mask(crop[0, 0], box, 60, 80))
    assert (pasted & shape).sum() / (pasted | shape).sum() > 0.97


def test_boxes_beyond_the_picture_are_cut_and_empty_ones_paste_nothing():
    pasted = paste_mask(torch.ones(28, 28), torch.tensor([-10.0, 20.0, 12.0, 90.0]), 40, 50)
    assert pasted[20:, :12].all()
    assert pasted.sum() == 20 * 12
    assert not paste_mask(torch.ones(28, 28), torch.tensor([3.0, 3.0, 3.0, 9.0]), 40, 50).any()
