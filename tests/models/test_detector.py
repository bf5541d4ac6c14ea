import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import box_iou

from libradet.models.config import BalancedPyramidConfig, BoxLossConfig, DetectionConfig, IoUConfig
from libradet.structures import Detections
from tests.helpers.tiny_detectors import compute_all_slots, take_all_samples, tiny_batch, tiny_config, tiny_detector

BATCHES = {
    "objects": {},
    "one object": {"boxes": ((5, 6, 50, 40),), "labels": (1,)},
    "no object": {"boxes": ()},
    "crowd only": {"boxes": ((5, 6, 90, 60),), "labels": (1,), "crowd": (True,)},
    "an object and a crowd": {"crowd": (False, True)},
}


def switch_balanced_pyramid(config):
    config.pyramid.balanced = BalancedPyramidConfig()


def switch_gated_pyramid(config):
    config.pyramid.balanced = BalancedPyramidConfig(gated=True)


def switch_background_share(config):
    config.roi.sampling.negatives, config.roi.sampling.random_fraction = "iou_balanced", 0.5


def switch_floor(config):
    sampling = config.roi.sampling
    sampling.negatives, sampling.floor_thr, sampling.floor_fraction = "iou_balanced", 0.1, 0.3


def switch_score_balanced_floor(config):
    switch_floor(config)
    config.roi.sampling.background_sampling = config.rpn.sampling.background_sampling = "score_balanced"
    config.rpn.sampling.negatives, config.rpn.sampling.floor_fraction = "iou_balanced", 0.3


def switch_schedule(config):
    config.roi.sampling.negatives, config.roi.sampling.random_schedule = "iou_balanced", "linear"
    config.rpn.sampling.negatives, config.rpn.sampling.random_schedule = "iou_balanced", "linear"


def switch_reweighting(config):
    for sampling in (config.roi.sampling, config.rpn.sampling):
        sampling.negatives, sampling.reweight_exponent = "iou_balanced", 0.5


def switch_iou_balanced(config):
    config.roi.sampling.negatives = "iou_balanced"


def switch_mmdet_bins(config):
    config.roi.sampling.negatives, config.roi.sampling.bins = "iou_balanced", "mmdet"


def switch_rpn_iou_balanced(config):
    config.rpn.sampling.negatives = "iou_balanced"


def switch_instance_balanced(config):
    config.roi.sampling.positives = "instance_balanced"


def switch_balanced_l1(config):
    config.roi.box_loss = BoxLossConfig("balanced_l1")


def switch_rpn_balanced_l1(config):
    config.rpn.box_loss = BoxLossConfig("balanced_l1", beta=1 / 9)


def switch_l1(config):
    config.roi.box_loss = config.rpn.box_loss = BoxLossConfig("l1")


def switch_hardest(config):
    config.roi.sampling.positives = config.roi.sampling.negatives = "ohem"
    config.rpn.sampling.positives = config.rpn.sampling.negatives = "ohem"


def switch_pafpn(config):
    config.pyramid.type = "pafpn"


def switch_class_agnostic(config):
    config.roi.class_agnostic = True


def switch_no_ground_truth_added(config):
    config.roi.add_gt_as_proposals = False


def switch_bgr(config):
    config.image.channels = "bgr"


SWITCHES = [f for name, f in sorted(globals().items()) if name.startswith("switch_")]


def assert_trains(model, batch):
    """Finite losses, and a finite gradient for every parameter."""
    model.train()
    losses = model(batch)
    assert set(losses) == {"rpn_class", "rpn_box", "class", "box"}
    assert all(loss.isfinite() and loss >= 0 and loss.dim() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
    return losses


@pytest.mark.parametrize("name", ["faster_rcnn", "libra_faster_rcnn"])
@pytest.mark.parametrize("objects", BATCHES)
def test_every_batch_trains_every_parameter(name, objects):
    losses = assert_trains(tiny_detector(tiny_config(name)), tiny_batch(**BATCHES[objects]))
    if "object" not in objects.removeprefix("no object"):
        assert losses["box"] == losses["rpn_box"] == 0
    else:
        assert losses["box"] > 0
        assert losses["rpn_box"] > 0
    assert losses["class"] > 0
    assert losses["rpn_class"] > 0


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_option_trains_and_detects(switch):
    config = tiny_config("faster_rcnn")
    switch(config)
    model = tiny_detector(config)
    assert_trains(model, tiny_batch())
    with torch.no_grad():
        assert model.eval()(tiny_batch()).valid.any()


def test_training_lowers_the_loss():
    model, batch = tiny_detector(), tiny_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    history = []
    for _ in range(10):
        loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        history.append(loss.item())
    assert sum(history[-2:]) < 0.7 * sum(history[:2])


def test_losses_do_not_depend_on_how_ground_truths_are_padded():
    model, batch = tiny_detector(take_all_samples(tiny_config())), tiny_batch()
    model.backbone.eval()
    padded = batch._replace(
        boxes=torch.cat([torch.zeros(2, 3, 4), batch.boxes, torch.zeros(2, 3, 4)], 1),
        labels=torch.cat([torch.full((2, 3), -1), batch.labels, torch.full((2, 3), -1)], 1),
        crowd=torch.nn.functional.pad(batch.crowd, (3, 3)),
    )
    for key, value in model(batch).items():
        torch.testing.assert_close(model(padded)[key], value)


def test_detections_are_sorted_clipped_and_after_nms():
    model = tiny_detector().eval()
    batch = tiny_batch(num_images=3)._replace(sizes=torch.tensor([[64, 96], [50, 96], [40, 33]]))
    with torch.no_grad():
        detections = model(batch)
    assert isinstance(detections, Detections)
    assert detections.boxes.shape == (3, 100, 4)
    assert detections.valid.any(1).all()
    assert not detections.valid.all(1).all()
    for boxes, scores, labels, valid, (height, width) in zip(*detections[:4], batch.sizes.tolist(), strict=True):
        assert valid.long().diff().le(0).all()
        assert scores[valid].diff().le(0).all()
        assert ((scores[valid] > 0.05) & (scores[valid] <= 1)).all()
        assert ((labels >= 0) & (labels < 3)).all()
        assert (boxes >= 0).all()
        assert (boxes[:, [0, 2]] <= width).all()
        assert (boxes[:, [1, 3]] <= height).all()
        assert (boxes[valid, 2:] > boxes[valid, :2]).all()
        assert (scores[~valid] == 0).all()
        assert (boxes[~valid] == 0).all()
        for label in labels[valid].unique():
            same = boxes[valid & (labels == label)]
            iou = box_iou(same, same).fill_diagonal_(0)
            assert iou.max() <= 0.5 + 1e-5


def test_evaluation_is_deterministic_and_ignores_ground_truths():
    model, batch = tiny_detector().eval(), tiny_batch()
    with torch.no_grad():
        a, b = model(batch), model(tiny_batch(boxes=()))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_detections_do_not_depend_on_the_rest_of_the_batch():
    model, batch = tiny_detector().eval(), tiny_batch(num_images=3)
    with torch.no_grad():
        together = model(batch)
        for i in range(3):
            alone = model(type(batch)(*(None if t is None else t[i : i + 1] for t in batch)))
            assert torch.equal(alone.valid[0], together.valid[i])
            torch.testing.assert_close(alone.boxes[0], together.boxes[i], atol=1e-2, rtol=0)
            torch.testing.assert_close(alone.scores[0], together.scores[i], atol=1e-4, rtol=0)


def test_detections_do_not_depend_on_padding_values():
    model, batch = tiny_detector().eval(), tiny_batch()._replace(sizes=torch.tensor([[50, 80]] * 2))
    noisy = batch.images.clone()
    noisy[:, :, 50:] = 255
    noisy[:, :, :, 80:] = 77
    with torch.no_grad():
        torch.testing.assert_close(model(batch), model(batch._replace(images=noisy)), rtol=0, atol=0)


def test_uint8_and_float_images_are_equivalent():
    model, batch = tiny_detector().eval(), tiny_batch()
    with torch.no_grad():
        torch.testing.assert_close(model(batch), model(batch._replace(images=batch.images.float())), rtol=0, atol=0)


def test_extract_features_returns_the_pyramid_levels():
    model, batch = tiny_detector().eval(), tiny_batch(size=(128, 192))
    with torch.no_grad():
        levels = model.extract_features(batch)
    assert [tuple(x.shape) for x in levels] == [(2, 16, 128 // s, 192 // s) for s in (4, 8, 16, 32, 64)]
    assert model.size_divisible == 64


def test_size_divisible_is_no_larger_than_needed():
    config = tiny_config("faster_rcnn")
    assert tiny_detector(config).size_divisible == 32
    config.image.size_divisible = 96
    assert tiny_detector(config).size_divisible == 96


def test_images_are_normalized_and_padding_is_zero():
    model = tiny_detector()
    batch = tiny_batch(num_images=1)._replace(sizes=torch.tensor([[50, 80]]))
    out = model.normalize(batch)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    expected = ((batch.images[0].float().permute(1, 2, 0) - mean) / std).permute(2, 0, 1)
    torch.testing.assert_close(out[0, :, :50, :80], expected[:, :50, :80])
    assert (out[:, :, 50:] == 0).all()
    assert (out[:, :, :, 80:] == 0).all()
    model.config.image.channels = "bgr"
    swapped = ((batch.images[0].flip(0).float().permute(1, 2, 0) - mean) / std).permute(2, 0, 1)
    torch.testing.assert_close(model.normalize(batch)[0, :, :50, :80], swapped[:, :50, :80])


def with_related_work(config):
    config.roi.iou, config.uncertainty_weighting = IoUConfig(), True


class NoSynchronization(TorchDispatchMode):
    """Refuses every operation for which a host would have to wait for its GPU.

    Custom operators count as one operation each: what happens inside of them is theirs.
    """

    REFUSED = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "lift_fresh", "equal", "is_nonzero")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert not name.startswith(self.REFUSED), f"{func} waits for the device"
        masks = args[1] if name.startswith("index") and len(args) > 1 and isinstance(args[1], list | tuple) else ()
        assert not any(m is not None and m.dtype == torch.bool for m in masks), f"{func} by a mask waits for the device"
        self.operators.add(name)
        return func(*args, **(kwargs or {}))

    def __init__(self):
        super().__init__()
        self.operators = set()


@pytest.mark.parametrize(
    "wait", [lambda x: x.sum().item(), lambda x: bool(x[0] > 0), lambda x: x[x > 0], lambda x: x.new_tensor([1.0])]
)
def test_synchronization_is_detected(wait):
    with pytest.raises(AssertionError, match="waits"), NoSynchronization():
        wait(torch.ones(3))


@pytest.mark.parametrize(
    ("name", "switch"),
    [
        ("faster_rcnn", None),
        ("libra_faster_rcnn", None),
        ("libra_faster_rcnn", switch_mmdet_bins),
        ("libra_faster_rcnn", switch_hardest),
        ("libra_faster_rcnn", with_related_work),
    ],
)
def test_training_step_does_not_synchronize(name, switch, monkeypatch):
    config = tiny_config(name)
    if switch:
        switch(config)
    model, batch = tiny_detector(config), tiny_batch()
    compute_all_slots(monkeypatch)
    with NoSynchronization() as mode:
        sum(model(batch).values()).backward()
    assert {"batched_nms", "pyramid_roi_align", "pyramid_roi_align_backward", "convolution_backward"} <= mode.operators


@pytest.mark.parametrize(
    ("detections", "operator"),
    [
        ({}, "batched_nms"),
        ({"nms_type": "soft_gaussian"}, "soft_nms"),
        ({"score_fusion": "multiply", "nms_type": "soft_linear"}, "soft_nms"),
        ({"score_fusion": "iou_guided"}, "iou_guided_nms"),
    ],
)
def test_detection_does_not_synchronize(detections, operator, monkeypatch):
    config = tiny_config()
    with_related_work(config)
    config.detections = DetectionConfig(**detections)
    compute_all_slots(monkeypatch)
    model, batch = tiny_detector(config).eval(), tiny_batch()
    with torch.no_grad(), NoSynchronization() as mode:
        model(batch)
    assert operator in mode.operators


def test_classes_without_names_are_numbered():
    config = tiny_config(num_classes=2)
    config.class_names = ()
    assert tiny_detector(config).class_names == ["class_0", "class_1"]
