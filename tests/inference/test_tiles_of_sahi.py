"""Masks of tiles are merged as by SAHI on the same tiles."""

import numpy as np
import torch
from torch import nn

from libradet.inference.predict import predict
from libradet.inference.tiles import make_tiling
from libradet.structures import Detections

# Masks that sahi.predict.get_sliced_prediction of SAHI 0.12.8 returns for EllipseDetector on scene(), with slices of 64
# pixels, an overlap of 0.4, and NMS at an IoU of 0.5: score in percent, class, area, and first and last row and column.
SAHI: list[tuple[int, ...]] = [
    (26, 0, 117, 54, 63, 129, 141), (32, 0, 184, 1, 15, 0, 13), (43, 1, 257, 80, 106, 90, 100),
    (48, 0, 293, 22, 36, 35, 57), (57, 2, 249, 81, 97, 89, 105), (58, 2, 184, 0, 11, 106, 122),
    (62, 2, 249, 47, 63, 82, 98), (63, 0, 277, 54, 68, 129, 149), (67, 1, 257, 67, 93, 89, 99),
    (73, 1, 221, 81, 107, 0, 8), (76, 0, 293, 82, 96, 89, 111), (81, 1, 257, 30, 56, 123, 133),
    (90, 0, 293, 86, 100, 15, 37),
]  # fmt: skip


class EllipseDetector(nn.Module):
    """Detects each bright pixel as an ellipse around it, cut at the border of the image; its class is the channel.

    The score is the pixel's value over 255, times the share of the box inside the image.
    """

    name, class_names, category_ids, size_divisible = "ellipses", ("red", "green", "blue"), (1, 2, 3), 32
    image_size, device, slots = "original", torch.device("cpu"), 20
    is_proposal_model, num_proposals, has_masks = False, 0, True
    half_axes = ((12, 8), (6, 14), (9, 9))

    def forward(self, batch):
        shape = len(batch.sizes), self.slots
        boxes, scores, masks = torch.zeros(*shape, 4), torch.zeros(shape), torch.zeros(*shape, 28, 28)
        labels, valid = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
        for b, image in enumerate(batch.images):
            for slot, (channel, y, x) in enumerate(torch.nonzero(image > 100).tolist()):
                across, down = self.half_axes[channel]
                whole = torch.tensor([x - across, y - down, x + across + 1, y + down + 1])
                box = whole.clamp(min=0).minimum(batch.sizes[b].flip(0).repeat(2))
                share = (box[2:] - box[:2]).prod() / (whole[2:] - whole[:2]).prod()
                boxes[b, slot], scores[b, slot] = box.float(), image[channel, y, x] / 255 * share
                labels[b, slot], valid[b, slot] = channel, True
                columns, rows = box[:2, None] + (torch.arange(28) + 0.5) / 28 * (box[2:] - box[:2])[:, None]
                radius = ((columns - x - 0.5) / across) ** 2 + ((rows - y - 0.5)[:, None] / down) ** 2
                masks[b, slot] = (1.5 - radius).clamp(0, 1)
        return Detections(boxes, scores, labels, valid, masks)


def scene():
    """A black image of 150 x 110 pixels with 12 bright ones."""
    rng = np.random.default_rng(0)
    image = np.zeros((110, 150, 3), np.uint8)
    for number in range(12):
        image[rng.integers(110), rng.integers(150), rng.integers(3)] = 110 + 12 * number
    return image


def describe(scores, labels, masks):
    """Return the columns of SAHI above."""
    rows = []
    for score, label, mask in zip(scores, labels, masks, strict=True):
        y, x = np.nonzero(mask)
        rows.append((round(100 * float(score)), int(label), len(x), *map(int, (y.min(), y.max(), x.min(), x.max()))))
    return sorted(rows)


def test_masks_of_sahi():
    model = EllipseDetector()
    found = predict(model, scene(), score_thresh=0.0, tiling=make_tiling(model, (64, 0.4)), batch_size=4)
    assert describe(found.confidence, found.class_id, np.asarray(found.mask)) == SAHI
