"""Soft-NMS at the end of every kind of detector, against the paper's loop over all that the detector could say."""

import pytest
import torch

from libradet.errors import UserError
from libradet.models.config_validation import validate_config
from libradet.models.zoo import MODELS
from tests.helpers.reference_nms import reference_soft_nms
from tests.helpers.tiny_detectors import tiny_batch, tiny_detector, tiny_zoo_config

NAMES = ("faster_rcnn", "libra_cascade_rcnn", "mask_rcnn", "retinanet", "fast_rcnn")


def detector(name):
    config = tiny_zoo_config(name)
    config.detections.score_thresh, config.detections.detections_per_img = 0.1, 400
    if config.retinanet is not None:
        config.retinanet.topk_candidates = 70
    return tiny_detector(config).eval()


@pytest.mark.parametrize("name", NAMES)
def test_soft_nms_of_detectors_matches_the_papers_loop(name):
    model = detector(name)
    settings, batch = model.config.detections, tiny_batch(size=(64, 128), proposals=20)
    settings.nms_thresh = 1.0
    with torch.no_grad():
        raw = model(batch)
    assert not raw.valid.all(), "every candidate has a slot"
    settings.nms_thresh, settings.min_score = 0.1, 0.05
    for decay in ("linear", "gaussian"):
        settings.nms_type = f"soft_{decay}"
        with torch.no_grad():
            detections = model(batch)
        assert (detections.masks is not None) == (name == "mask_rcnn")
        for b in range(2):
            check_image(raw, detections, b, decay)


def check_image(raw, detections, b, decay):
    image = [t[b].double().tolist() for t in (raw.boxes, raw.scores)]
    image += [t[b].tolist() for t in (raw.labels, raw.valid)]
    expected = reference_soft_nms(*image, decay, 0.1, 0.5, 0.05, 400)
    rows, kept = torch.tensor([row for row, _ in expected]), detections.valid[b]
    assert 1 < len(rows) < raw.valid[b].sum()
    assert kept.sum() == len(rows)
    scores = torch.tensor([score for _, score in expected])
    assert (scores < raw.scores[b, rows] - 1e-3).any(), "some scores were lowered"
    torch.testing.assert_close(detections.scores[b, kept], scores, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(detections.boxes[b, kept], raw.boxes[b, rows], atol=1e-3, rtol=0)
    assert torch.equal(detections.labels[b, kept], raw.labels[b, rows])
    if detections.masks is not None:
        torch.testing.assert_close(detections.masks[b, kept], raw.masks[b, rows], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["rpn", "libra_rpn"])
def test_soft_nms_of_proposals_is_refused(name):
    config = MODELS[name]()
    config.detections.nms_type = "soft_linear"
    with pytest.raises(UserError, match=r"detections\.nms_type is soft_linear"):
        validate_config(config)
