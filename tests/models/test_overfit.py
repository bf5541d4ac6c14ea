"""Every model of the zoo overfits a few images."""

import pytest

from libradet.models.zoo import MODELS
from tests.helpers.overfitting import (
    box_ap50,
    detections_of,
    few_images,
    learn,
    mask_ap50,
    recall,
    small_config,
    with_proposals,
)

QUICK = {"libra_faster_rcnn"}
# Focal loss starts from scores of 0.01 and needs more steps.
STEPS_AND_RATE = {"retinanet": (160, 0.02), "libra_retinanet": (160, 0.02), "libra_faster_rcnn": (80, 0.015)}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_overfits_a_few_images(name, tmp_path):
    dataset, batch = few_images(tmp_path)
    batch = with_proposals(batch)
    steps, rate = STEPS_AND_RATE.get(name, (120, 0.015))
    model = learn(small_config(name), batch, steps, rate)
    detections = detections_of(model, batch)
    if model.config.is_proposal_model:
        assert recall(detections, batch) >= 0.9
        return
    assert box_ap50(detections, batch, dataset) >= 0.9
    if model.config.mask is not None:
        assert mask_ap50(detections, batch, tmp_path) >= 0.9
