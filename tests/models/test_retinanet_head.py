import torch

from libradet.models.retinanet_head import RetinaNetHead, RetinaNetOutput
from tests.helpers.tiny_detectors import tiny_zoo_config


def test_clip_last_clips_boxes_after_nms():
    config = tiny_zoo_config("retinanet", 1)
    head = RetinaNetHead(16, 1, [8, 16, 32, 64, 128], config.retinanet, config.detections)
    # The second reaches out of the image; what is left of it is all but the first. The third is outside.
    boxes = torch.tensor([[10.0, 10, 30, 30], [11.0, 10, 31, 90], [-40.0, -40, -5, -5]])
    logits, sizes = torch.tensor([[[2.0], [1.0], [0.0]]]), torch.tensor([[32, 32]])
    # Ratios outermost, nine to a cell; only three have a score.
    rest = torch.full((1, 6, 1), -20.0)
    output = RetinaNetOutput(
        torch.cat([logits, rest], 1), torch.zeros(1, 9, 4), torch.cat([boxes, torch.zeros(6, 4)]), [(1, 1)]
    )
    detections = head.detect(output, sizes)
    assert detections.boxes[detections.valid].tolist() == [[10.0, 10, 30, 30]]
    config.retinanet.clip_last, config.detections.min_size = True, -1.0
    detections = head.detect(output, sizes)
    assert detections.boxes[detections.valid].tolist() == [[10.0, 10, 30, 30], [11.0, 10, 31, 32]]
    assert detections.scores[~detections.valid].max() == 0
