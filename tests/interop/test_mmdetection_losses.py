"""Losses in mmdetection's checkpoints that change the classifier of the box head, or its scores."""

import pytest
import torch

from libradet.errors import UserError
from libradet.interop.loading import load_checkpoint
from libradet.interop.saving import to_foreign_state_dict
from libradet.models.config import ClassBalanceConfig
from tests.helpers.tiny_detectors import tiny_config, tiny_detector

HEAD = "roi_head.bbox_head."


@pytest.fixture(scope="module")
def state():
    """Faster R-CNN with three classes."""
    return to_foreign_state_dict(tiny_detector(tiny_config("faster_rcnn", backbone="resnet18")), "mmdet")


def checkpoint(path, state, loss=None, head=""):
    """Write a checkpoint with these tensors, and with settings of its loss if there are any."""
    cfg = f"model = dict(roi_head=dict(bbox_head=dict({head} loss_cls=dict({loss}))))"
    torch.save({"meta": {"mmdet_version": "3.3.0"} | ({"cfg": cfg} if loss else {}), "state_dict": state}, path)
    return path


def with_logits(state, count):
    """Return the tensors with another number of logits."""
    rows = torch.randn(count, state[f"{HEAD}fc_cls.weight"].shape[1])
    return state | {f"{HEAD}fc_cls.weight": rows, f"{HEAD}fc_cls.bias": torch.zeros(count)}


def equalization_buffers():
    return {f"{HEAD}loss_cls.{name}": torch.ones(3) for name in ("pos_grad", "neg_grad", "pos_neg")}


SEESAW = r"trained with SeesawLoss, whose classifier has two logits of objectness .* --detector.roi.class_balance.type"


def test_seesaw_loss_is_refused_by_its_buffer(state, tmp_path):
    tensors = with_logits(state, 5) | {f"{HEAD}loss_cls.cum_samples": torch.zeros(4)}
    with pytest.raises(UserError, match=SEESAW):
        load_checkpoint(checkpoint(tmp_path / "x.pth", tensors))


def test_seesaw_loss_is_refused_by_its_settings(state, tmp_path):
    """Boxes that are the same for all classes do not tell how many there are."""
    agnostic = {f"{HEAD}fc_reg.weight": torch.zeros(4, 32), f"{HEAD}fc_reg.bias": torch.zeros(4)}
    path = checkpoint(tmp_path / "x.pth", with_logits(state, 5) | agnostic, "type='SeesawLoss', p=0.8, num_classes=3")
    with pytest.raises(UserError, match=SEESAW) as error:
        load_checkpoint(path)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("count", [3 + 2, 3 + 4, 3 - 1])
def test_other_numbers_of_logits_are_refused(state, tmp_path, count):
    with pytest.raises(UserError, match=rf"its box head has {count} logits for the 3 classes of its boxes"):
        load_checkpoint(checkpoint(tmp_path / "x.pth", with_logits(state, count)))


@pytest.mark.parametrize(
    ("loss", "head", "message"),
    [
        ("type='EQL'", "", "trained with EQL, whose classifier has no logit of the background"),
        ("type='mmdet.models.losses.SeesawLoss'", "", SEESAW),
        ("type='EQLv2', test_with_obj=False", "", "test_with_obj=False, is not supported"),
        ("type='CrossEntropyLoss'", "cls_predictor_cfg=dict(type='NormedLinear'),", "cls_predictor_cfg='NormedLinear'"),
    ],
)
def test_other_classifiers_are_refused(state, tmp_path, loss, head, message):
    with pytest.raises(UserError, match=message):
        load_checkpoint(checkpoint(tmp_path / "x.pth", state, loss, head))


@pytest.mark.parametrize("has_buffers", [True, False])
def test_equalization_loss_of_its_authors(state, tmp_path, has_buffers):
    """Its scores are those of the paper; its gradients, which early versions do not save, start anew."""
    tensors = state | (equalization_buffers() if has_buffers else {})
    path = checkpoint(tmp_path / "x.pth", tensors, "type='EQLv2', num_classes=3, gamma=10, mu=0.7")
    loaded = load_checkpoint(path)
    assert loaded.model.config.roi.class_balance == ClassBalanceConfig("eql_v2", gamma=10.0, mu=0.7)
    assert torch.equal(loaded.model.roi.logits.weight, state[f"{HEAD}fc_cls.weight"])
    assert not any(buffer.any() for buffer in loaded.model.roi.class_balance.buffers())


def test_equalization_loss_of_version_3_scores_by_softmax(state, tmp_path):
    tensors = state | equalization_buffers()
    loaded = load_checkpoint(checkpoint(tmp_path / "x.pth", tensors, "type='EQLV2Loss', num_classes=3"))
    assert loaded.model.config.roi.class_balance is None
    with pytest.raises(UserError, match="whether boxes are scored by sigmoid"):
        load_checkpoint(checkpoint(tmp_path / "y.pth", tensors))


@pytest.mark.parametrize("loss", ["type='CrossEntropyLoss', use_sigmoid=False", "type='FocalLoss', use_sigmoid=True"])
def test_losses_that_leave_the_scores_alone(state, tmp_path, loss):
    head = "cls_predictor_cfg=dict(type='Linear'), reg_predictor_cfg=dict(type='mmdet.Linear'),"
    loaded = load_checkpoint(checkpoint(tmp_path / "x.pth", state, loss, head))
    assert loaded.model.config.roi.class_balance is None
