from dataclasses import replace

import pytest
import torch
from torchvision.ops import batched_nms, box_iou

from libradet.geometry.boxes import decode
from libradet.models.config import AnchorConfig, ProposalConfig, RPNConfig, SamplingConfig
from libradet.models.rpn import RPNHead, RPNOutput, filter_proposals
from tests.helpers.tiny_detectors import take_all_samples, tiny_batch, tiny_config

STRIDES = [4, 8, 16, 32, 64]


def outputs(height, width, images=2, scale=8.0, seed=0):
    """Outputs of an RPN for a padded size: values of a cell depend on its position only."""
    rpn, maps, logits, deltas, shapes = RPNHead(4, STRIDES, RPNConfig(AnchorConfig((scale,)))), {}, [], [], []
    for stride in STRIDES:
        g = torch.Generator().manual_seed(seed + stride)
        maps[stride] = torch.randn(images, 1024 // stride, 1024 // stride, 15, generator=g)
        part = maps[stride][:, : -(-height // stride), : -(-width // stride)]
        shapes.append(tuple(part.shape[1:3]))
        logits.append(part[..., :3].flatten(1))
        deltas.append(part[..., 3:].reshape(images, -1, 4) * 0.3)
    empty = [torch.zeros(images, 4, *shape) for shape in shapes]
    return RPNOutput(torch.cat(logits, 1), torch.cat(deltas, 1), rpn(empty).anchors, shapes)


def head(config, scale=8.0):
    return RPNHead(4, STRIDES, replace(config, anchors=AnchorConfig((scale,))))


def level_sizes(size):
    return [3 * -(-size[0] // stride) * -(-size[1] // stride) for stride in STRIDES]


def test_proposals_are_the_best_of_each_level_after_nms():
    output, sizes = outputs(128, 192), torch.tensor([[128, 192], [100, 150]])
    proposals = filter_proposals(
        output,
        sizes,
        ProposalConfig(pre_nms_top_n=50, post_nms_top_n=80, nms_thresh=0.6, min_size=2.0),
        level_sizes((128, 192)),
    )
    assert proposals.boxes.shape == (2, 80, 4)
    for b in range(2):
        boxes, scores, levels, start = [], [], [], 0
        for level, (h, w) in enumerate(output.shapes):
            part = slice(start, start + h * w * 3)
            best = output.logits[b, part].sort(descending=True).indices[:50]
            boxes.append(decode(output.anchors[part][best], output.deltas[b, part][best]))
            scores.append(output.logits[b, part][best].sigmoid())
            levels.append(torch.full((len(best),), level))
            start = part.stop
        boxes, scores, levels = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
        height, width = sizes[b].tolist()
        boxes = torch.stack(
            [
                boxes[:, 0].clamp(0, width),
                boxes[:, 1].clamp(0, height),
                boxes[:, 2].clamp(0, width),
                boxes[:, 3].clamp(0, height),
            ],
            1,
        )
        large = (boxes[:, 2] - boxes[:, 0] > 2) & (boxes[:, 3] - boxes[:, 1] > 2)
        boxes, scores, levels = boxes[large], scores[large], levels[large]
        kept = batched_nms(boxes, scores, levels, 0.6)[:80]
        n = int(proposals.valid[b].sum())
        assert n == len(kept)
        torch.testing.assert_close(proposals.boxes[b, :n], boxes[kept])
        torch.testing.assert_close(proposals.scores[b, :n], scores[kept])
        assert (proposals.boxes[b, n:] == 0).all()
        assert (proposals.scores[b, n:] == 0).all()


def test_proposals_below_the_score_threshold_are_dropped():
    """Suppression is by falling score, so what scores less has no effect on what remains."""
    output, sizes = outputs(64, 96), torch.tensor([[64, 96]] * 2)
    all_of_them, above = (
        filter_proposals(output, sizes, ProposalConfig(300, 900, score_thresh=t), level_sizes((64, 96)))
        for t in (0.0, 0.6)
    )
    for b in range(2):
        kept = all_of_them.boxes[b, all_of_them.valid[b] & (all_of_them.scores[b] >= 0.6)]
        assert 20 < len(kept) < int(all_of_them.valid[b].sum())
        assert torch.equal(above.boxes[b, above.valid[b]], kept)


def test_fewer_anchors_than_pre_nms_top_n():
    proposals = filter_proposals(
        outputs(64, 64), torch.tensor([[64, 64]] * 2), ProposalConfig(5000, 5000), level_sizes((64, 64))
    )
    assert proposals.boxes.shape == (2, 5000, 4)
    assert not proposals.valid[:, -1].any()


@pytest.mark.parametrize("scale", [1.0, 8.0])
@pytest.mark.parametrize("padded_size", [(128, 128), (128, 192), (256, 256)])
def test_losses_do_not_depend_on_the_padding(padded_size, scale):
    """Objects at the right and lower edge too, where the best of all anchors lies in the padding."""
    batch = tiny_batch([(90, 10, 96, 60), (10, 50, 70, 64), (93, 40, 96, 43)], [0, 1, 2], size=(64, 96))
    config = take_all_samples(tiny_config()).rpn
    config.match.min_pos_iou = 0.05
    tight, padded = (head(config, scale).losses(outputs(*s, scale=scale), batch) for s in ((64, 96), padded_size))
    for key, value in tight.items():
        torch.testing.assert_close(padded[key], value)


def test_an_object_at_the_edge_has_a_positive_anchor_inside():
    """The anchor around (96, 40), in the padding, would be its best."""
    batch = tiny_batch([(93, 38, 96, 42)], [0], num_images=1, size=(64, 96))
    config = take_all_samples(tiny_config()).rpn
    config.match.min_pos_iou = 0.05
    assert head(config, 1.0).losses(outputs(128, 128, 1, scale=1.0), batch)["rpn_box"] > 0


def test_anchors_in_crowds_and_padding_are_not_negatives():
    """Only logits of anchors that are sampled have a gradient."""
    output, config = outputs(128, 128, 1), take_all_samples(tiny_config()).rpn
    output = output._replace(logits=output.logits.requires_grad_())
    batch = tiny_batch([(10, 10, 50, 50), (40, 20, 90, 60)], [1, 0], [False, True], num_images=1)
    head(config).losses(output, batch)["rpn_class"].backward()
    sampled = output.logits.grad[0] != 0
    x, y = ((output.anchors[:, i] + output.anchors[:, i + 2]) / 2 for i in (0, 1))
    inside = (x < 96) & (y < 64)
    iou = box_iou(output.anchors, batch.boxes[0, :1])[:, 0]
    iou[~inside] = 0
    positive = (iou >= 0.7) | ((iou == iou.max()) & (iou > 0.3))
    left_top = torch.maximum(output.anchors[:, :2], batch.boxes[0, 1, :2])
    side = (torch.minimum(output.anchors[:, 2:], batch.boxes[0, 1, 2:]) - left_top).clamp(min=0)
    covered = side.prod(1) / (output.anchors[:, 2:] - output.anchors[:, :2]).prod(1) > 0.5
    expected = inside & (positive | ((iou < 0.3) & ~covered))
    assert (covered & inside).any()
    assert torch.equal(sampled, expected)


def test_anchors_across_the_border_are_used_only_if_allowed():
    """Wrong predictions for these anchors alone change the loss only if they are used."""
    batch = tiny_batch()
    class_losses = {}
    for allowed in (None, 0.0, 1e6):
        everything = SamplingConfig(batch_size_per_image=8192, positive_fraction=0.5)
        config = RPNConfig(allowed_border=allowed, sampling=everything)
        rpn = RPNHead(4, STRIDES, config)
        output = rpn([torch.zeros(len(batch.images), 4, 128 // stride, 128 // stride) for stride in STRIDES])
        height, width = batch.sizes.min(0).values.tolist()
        ends = torch.tensor([width, height])
        crossing = (output.anchors[:, :2] < 0).any(1) | (output.anchors[:, 2:] >= ends).any(1)
        right = torch.zeros_like(output.logits)
        for name, logits in (("right", right), ("wrong", right + 50.0 * crossing)):
            losses = rpn.losses(output._replace(logits=logits), batch)
            class_losses[allowed, name] = float(losses["rpn_class"])
    assert class_losses[None, "right"] != class_losses[None, "wrong"]
    assert class_losses[0.0, "right"] == pytest.approx(class_losses[0.0, "wrong"])
    assert class_losses[1e6, "wrong"] == pytest.approx(class_losses[None, "wrong"])
