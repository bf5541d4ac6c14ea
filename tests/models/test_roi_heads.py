"""RoI heads: IoU prediction (IoU-Net), its use in postprocessing, and cascades."""

import pytest
import torch
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from libradet.errors import UserError
from libradet.geometry.boxes import box_area, decode
from libradet.models.box_head import BoxHeadOutput, training_candidates
from libradet.models.config import DetectionConfig, IoUConfig
from libradet.models.config_validation import validate_config
from libradet.models.load_pretrained import load_matching_weights
from libradet.models.losses import iou_prediction_loss
from libradet.models.roi_heads import postprocess_detections, refine, stage_configs
from libradet.models.rpn import Proposals
from libradet.models.serialization import load_model, save_model
from tests.helpers.reference_nms import reference_guided_nms
from tests.helpers.tiny_detectors import tiny_batch, tiny_detector, tiny_zoo_config

ROI_MODELS = ("fast_rcnn", "faster_rcnn", "cascade_rcnn", "mask_rcnn")
STD = (0.1, 0.1, 0.2, 0.2)


def config_of(name="faster_rcnn", agnostic=False, **settings):
    config = tiny_zoo_config(name)
    config.roi.iou, config.roi.class_agnostic = IoUConfig(**settings), agnostic
    return config


def smooth_l1(error, beta):
    error = error.abs()
    return torch.where(error < beta, error**2 / (2 * beta), error - beta / 2)


@pytest.mark.parametrize("beta", [1.0, 0.2])
def test_iou_loss_is_smooth_l1_on_the_scaled_iou(beta):
    corner = torch.rand(2, 9, 2) * 20
    boxes = torch.cat([corner, corner + 10 + torch.rand(2, 9, 2) * 20], dim=2).requires_grad_()
    gt_boxes = boxes.detach() + torch.rand(2, 9, 4) * 4
    positive = torch.rand(2, 9) < 0.6
    clean = (torch.rand(2, 9) * 2 - 1).requires_grad_()
    loss = iou_prediction_loss(clean, boxes, gt_boxes, positive, IoUConfig(3.0, beta))
    pairs = zip(boxes.detach().double(), gt_boxes.double(), strict=True)
    target = 2 * torch.stack([box_iou(a, b).diag() for a, b in pairs]) - 1
    terms = smooth_l1(clean.detach().double() - target, beta)[positive]
    torch.testing.assert_close(loss.double(), 3 * terms.mean())
    loss.backward()
    assert boxes.grad is None
    dirty = clean.detach().masked_fill(~positive, torch.nan).requires_grad_()
    wild = gt_boxes.masked_fill(~positive[..., None], torch.nan)
    iou_prediction_loss(dirty, boxes, wild, positive, IoUConfig(3.0, beta)).backward()
    assert torch.equal(dirty.grad, clean.grad)
    assert not dirty.grad[~positive].any()
    nothing = iou_prediction_loss(clean, boxes, gt_boxes, torch.zeros_like(positive), IoUConfig())
    assert nothing == 0


@pytest.mark.parametrize("agnostic", [False, True])
def test_target_is_the_iou_of_the_heads_own_refined_boxes(agnostic):
    """With zero weights, the loss follows from the biases and the boxes that the deltas of the true class decode to."""
    config = config_of(agnostic=agnostic, weight=2.0)
    model, batch = tiny_detector(config), tiny_batch()
    bias = torch.tensor([0.3] if agnostic else [0.1, 0.5, -0.4])
    torch.nn.init.zeros_(model.roi.iou.weight)
    model.roi.iou.bias.data.copy_(bias)
    with torch.no_grad():
        pyramid = model.extract_features(batch)
        proposals = model.rpn.propose(model.rpn(pyramid), batch.sizes, training=True)
        samples = model.roi.sample_proposals(pyramid, proposals, batch)
        losses, deltas = model.roi.sample_losses(pyramid, samples, batch)
    terms = []
    for b, s in samples.positive.nonzero().tolist():
        label = int(samples.labels[b, s])
        delta = deltas[b, s, 0 if agnostic else label].double()
        box = clip_boxes_to_image(decode(samples.boxes[b, s].double(), delta, STD)[None], (64, 96))
        overlap = box_iou(box, batch.boxes[b, samples.gt[b, s]].double()[None])[0, 0]
        terms.append(smooth_l1(bias[0 if agnostic else label].double() - (2 * overlap - 1), 1.0))
    assert len(terms) > 4
    torch.testing.assert_close(losses["iou"].double(), 2 * torch.stack(terms).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ROI_MODELS)
def test_iou_branch_is_trained_in_every_roi_head_and_absent_if_off(name):
    assert not [n for n in tiny_detector(tiny_zoo_config(name)).state_dict() if "iou" in n]
    model = tiny_detector(config_of(name))
    last = "roi.2.iou" if "cascade" in name else "roi.iou"
    assert [n for n in model.state_dict() if "iou" in n] == [f"{last}.weight", f"{last}.bias"]
    proposals = tiny_batch(proposals=20).proposals
    for objects, ground_truth in ((True, {}), (False, {"boxes": (), "labels": ()})):
        model.zero_grad()
        losses = model(tiny_batch(**ground_truth, size=(64, 128), masks="mask" in name)._replace(proposals=proposals))
        assert (losses["iou_3" if "cascade" in name else "iou"] > 0) == objects
        torch.stack(list(losses.values())).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert bool(model.get_parameter(f"{last}.weight").grad.any()) == objects


def test_iou_prediction_improves_on_a_constant():
    """A trained layer has a lower loss than a trained constant."""
    config = config_of(agnostic=True, beta=0.1)
    model, batch = tiny_detector(config), tiny_batch()
    with torch.no_grad():
        pyramid = model.extract_features(batch)
        proposals = model.rpn.propose(model.rpn(pyramid), batch.sizes, training=True)
        samples = model.roi.sample_proposals(pyramid, proposals, batch)
    final, layer = {}, model.roi.iou
    for what, trained in (("constant", [layer.bias]), ("layer", [layer.weight, layer.bias])):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        optimizer = torch.optim.Adam(trained, lr=0.03)
        for _ in range(60):
            losses, _ = model.roi.sample_losses(pyramid, samples, batch)
            optimizer.zero_grad()
            losses["iou"].backward()
            optimizer.step()
            final[what] = losses["iou"].item()
    assert final["layer"] < 0.7 * final["constant"]


def stage_output(agnostic, seed=0, proposals=30, classes=3):
    """Proposals that overlap strongly, and random predictions of a box head for them."""
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, proposals, 2, generator=g) * 40
    boxes = torch.cat([corner, corner + 15 + torch.rand(2, proposals, 2, generator=g) * 20], -1)
    valid = torch.rand(2, proposals, generator=g) < 0.9
    own = 1 if agnostic else classes
    logits = torch.randn(2, proposals, classes + 1, generator=g) * 2
    deltas = torch.randn(2, proposals, own, 4, generator=g)
    # Beyond -1..1, too, which is cut.
    iou = torch.randn(2, proposals, own, generator=g)
    return Proposals(boxes, valid.float(), valid), BoxHeadOutput(logits, deltas, iou), logits.softmax(-1)


def candidates_of(proposals, output, scores):
    """Boxes, scores, expected IoUs and labels of all pairs of proposal and class, in double precision."""
    for b in range(2):
        boxes, labels, quality = [], [], []
        for p in range(proposals.boxes.shape[1]):
            for c in range(3):
                row = c % output.deltas.shape[2]
                box = decode(proposals.boxes[b, p].double(), output.deltas[b, p, row].double(), STD)
                boxes.append(clip_boxes_to_image(box[None], (64, 96))[0])
                labels.append(c)
                quality.append(min(max((float(output.iou[b, p, row]) + 1) / 2, 0.0), 1.0))
        valid = proposals.valid[b].repeat_interleave(3)
        yield torch.stack(boxes), scores[b, :, :3].flatten().double(), torch.tensor(quality).double(), labels, valid


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_score_fusion_multiply(agnostic, seed):
    proposals, output, scores = stage_output(agnostic, seed)
    config = DetectionConfig(score_thresh=0.1, score_fusion="multiply", detections_per_img=90)
    detections = postprocess_detections(scores, output, proposals, torch.tensor([[64, 96]] * 2), STD, config)
    for b, (boxes, plain, quality, labels, valid) in enumerate(candidates_of(proposals, output, scores)):
        product, labels = plain * quality, torch.tensor(labels)
        rows = torch.nonzero(valid & (product > 0.1)).squeeze(1)
        assert 3 < len(rows) < (valid & (plain > 0.1)).sum()
        rows = rows[batched_nms(boxes[rows], product[rows], labels[rows], 0.5)]
        kept = detections.valid[b]
        torch.testing.assert_close(detections.scores[b, kept].double(), product[rows], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(detections.boxes[b, kept].double(), boxes[rows], atol=1e-3, rtol=0)
        assert torch.equal(detections.labels[b, kept], labels[rows])


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_score_fusion_iou_guided_matches_the_papers_algorithm(agnostic, seed):
    proposals, output, scores = stage_output(agnostic, seed)
    config = DetectionConfig(score_thresh=0.05, score_fusion="iou_guided", nms_thresh=0.4, detections_per_img=90)
    detections = postprocess_detections(scores, output, proposals, torch.tensor([[64, 96]] * 2), STD, config)
    for b, (boxes, plain, quality, labels, valid) in enumerate(candidates_of(proposals, output, scores)):
        # Where the expected IoU was cut off, equals are ordered as in the operator: the earlier row first.
        listed = (t.tolist() for t in (boxes, plain, quality))
        expected = reference_guided_nms(*listed, labels, (valid & (plain > 0.05)).tolist(), 0.4, 90)
        rows, kept = [row for row, _ in expected], detections.valid[b]
        inherited = torch.tensor([score for _, score in expected]).double()
        assert (inherited > plain[rows] + 1e-3).any()
        torch.testing.assert_close(detections.scores[b, kept].double(), inherited, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(detections.boxes[b, kept].double(), boxes[rows], atol=1e-3, rtol=0)
        assert detections.labels[b, kept].tolist() == [labels[row] for row in rows]


@pytest.mark.parametrize("name", ROI_MODELS)
def test_every_roi_head_uses_the_expected_iou(name):
    model = tiny_detector(config_of(name)).eval()
    layer = (model.roi[2] if "cascade" in name else model.roi).iou
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.constant_(layer.bias, -0.5)
    batch, detections = tiny_batch(size=(64, 128), proposals=20), {}
    model.config.detections.score_thresh = 0.0
    for quality in ("none", "multiply", "iou_guided"):
        model.config.detections.score_fusion = quality
        with torch.no_grad():
            detections[quality] = model(batch)
        assert (detections[quality].masks is not None) == ("mask" in name)
    # Expected alike everywhere, it changes nothing but scores; only where it guides, the order of proposals decides.
    torch.testing.assert_close(detections["multiply"].boxes, detections["none"].boxes)
    torch.testing.assert_close(detections["multiply"].scores, detections["none"].scores * 0.25)
    assert not torch.equal(detections["iou_guided"].boxes, detections["none"].boxes)


def test_iou_branch_is_saved_and_loaded(tmp_path):
    config = config_of()
    config.detections.score_fusion = "iou_guided"
    model, batch = tiny_detector(config).eval(), tiny_batch()
    save_model(model, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model(batch)[:4], again(batch)[:4], strict=True))
    # A detector without the branch provides all other weights.
    fresh = tiny_detector(config, seed=1)
    old = tiny_detector(tiny_zoo_config("faster_rcnn"))
    assert load_matching_weights(fresh, old) == ["roi.iou"]
    assert torch.equal(fresh.roi.deltas.weight, old.roi.deltas.weight)
    assert load_matching_weights(fresh, model) == []
    assert torch.equal(fresh.roi.iou.weight, model.roi.iou.weight)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("faster_rcnn", {"score_fusion": "multiply"}, "set roi.iou"),
        ("retinanet", {"score_fusion": "iou_guided"}, "retinanet has no box head"),
    ],
)
def test_score_fusion_without_iou_branch_is_refused(name, change, words):
    config = tiny_zoo_config(name)
    config.detections = DetectionConfig(**change)
    with pytest.raises(UserError, match=words):
        validate_config(config)


def test_iou_guided_nms_excludes_soft_nms():
    config = config_of()
    config.detections = DetectionConfig(score_fusion="iou_guided", nms_type="soft_linear")
    with pytest.raises(UserError, match="exclude each other"):
        validate_config(config)
    config.detections.score_fusion = "multiply"
    validate_config(config)


def test_refine_clips_a_box_that_leaves_the_image():
    """As in mmdetection and detectron2: a box without area has features of zero, and is scored as well."""
    config = stage_configs(tiny_zoo_config("cascade_rcnn").roi, tiny_zoo_config("cascade_rcnn").cascade)[0]
    boxes = torch.tensor([[[10.0, 10, 30, 20], [10, 10, 30, 20], [0, 0, 0, 0]]])
    deltas = torch.tensor([[[[100.0, 0, 0, 0]], [[0, 0, 0, 0]], [[5.0, 0, 0, 0]]]])
    valid = torch.tensor([[True, True, False]])
    labels = torch.zeros(1, 3, dtype=torch.int64)
    refined = refine(boxes, deltas, labels, valid, torch.tensor([[64, 96]]), config)
    assert refined.boxes[0, :2].tolist() == [[96, 10, 96, 20], [10, 10, 30, 20]]
    assert torch.equal(refined.valid, valid)


def test_cascade_does_not_train_on_boxes_without_area():
    model = tiny_detector(tiny_zoo_config("cascade_rcnn")).train()
    for head in model.roi:
        torch.nn.init.zeros_(head.deltas.weight)
        head.deltas.bias.data[0] = 1e4
    batch = tiny_batch()
    pyramid = model.extract_features(batch)
    proposals = model.rpn.propose(model.rpn(pyramid), batch.sizes, training=True)
    losses, samples = model.roi.losses(pyramid, proposals, batch)
    # All boxes have left the image after the first stage: only the added ground truths remain.
    assert samples.valid.sum() == (batch.labels >= 0).sum()
    assert (box_area(samples.boxes)[samples.valid] > 0).all()
    assert all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("name", ["faster_rcnn", "cascade_rcnn"])
def test_generated_boxes_are_positives_and_no_proposals_of_the_next_stage(name):
    config = tiny_zoo_config(name)
    config.roi.generated_boxes = 3
    model, batch = tiny_detector(config), tiny_batch()
    head = model.roi.box_heads[0]
    no_proposals = Proposals(torch.zeros(2, 4, 4), torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.bool))
    boxes, valid = training_candidates(no_proposals, batch, head.config)
    num_gt = batch.boxes.shape[1]
    objects = (batch.labels >= 0) & ~batch.crowd
    assert torch.equal(valid[:, 4 : 4 + num_gt], objects)
    generated = boxes[:, 4 + num_gt :].unflatten(1, (num_gt, 3))
    for image in range(2):
        for row in objects[image].nonzero().flatten():
            assert box_iou(batch.boxes[image, row : row + 1], generated[image, row]).min() >= 0.5
    features = [torch.zeros(2, config.pyramid.channels, 2**k, 2**k) for k in (5, 4, 3, 2)]
    samples = head.sample_proposals(features, no_proposals, batch)
    assert samples.positive.sum(1).tolist() == (4 * objects.sum(1)).clamp(max=head.max_positives).tolist()
    assert bool(samples.added[samples.positive].all())
