import torch
from tiny_detectors import tiny_batch, tiny_detector, tiny_zoo_config

from libradet.geometry.boxes import area
from libradet.models.cascade import cascade_losses, refine, stage_configs
from libradet.models.rpn import propose


def test_a_box_that_leaves_the_image_is_kept_at_its_border():
    """As mmdetection and detectron2 have it: features of a box without area are zeros, which a stage scores too."""
    config = stage_configs(tiny_zoo_config("cascade_rcnn").roi, tiny_zoo_config("cascade_rcnn").cascade)[0]
    boxes = torch.tensor([[[10.0, 10, 30, 20], [10, 10, 30, 20], [0, 0, 0, 0]]])
    deltas = torch.tensor([[[[100.0, 0, 0, 0]], [[0, 0, 0, 0]], [[5.0, 0, 0, 0]]]])
    valid = torch.tensor([[True, True, False]])
    labels = torch.zeros(1, 3, dtype=torch.int64)
    refined = refine(boxes, deltas, labels, valid, torch.tensor([[64, 96]]), config)
    assert refined.boxes[0, :2].tolist() == [[96, 10, 96, 20], [10, 10, 30, 20]]
    assert torch.equal(refined.valid, valid)


def test_boxes_without_area_are_not_learnt_from():
    model = tiny_detector(tiny_zoo_config("cascade_rcnn")).train()
    for head in model.roi:
        torch.nn.init.zeros_(head.deltas.weight)
        head.deltas.bias.data[0] = 1e4
    config = model.config
    batch = tiny_batch()
    pyramid = model.extract_features(batch)
    proposals = propose(model.rpn(pyramid), batch.sizes, config.rpn.train_proposals, model.rpn.per_cell)
    stages = stage_configs(config.roi, config.cascade)
    losses, samples = cascade_losses(list(model.roi), pyramid, model.strides, proposals, batch, stages)
    # Everything has left the image after the first stage: what is left is the ground truths.
    assert samples.valid.sum() == (batch.labels >= 0).sum()
    assert (area(samples.boxes)[samples.valid] > 0).all()
    assert all(loss.isfinite() for loss in losses.values())
