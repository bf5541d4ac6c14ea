"""Test-time augmentation: detections of flipped and resized images are mapped back and merged."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import batched_nms

from libradet.cli import main
from libradet.data.batch import Batch
from libradet.data.synthesis.synthetic import synthesize
from libradet.errors import UserError
from libradet.evaluation.evaluator import CocoEvaluator
from libradet.inference.dataset_runner import run_on_dataset
from libradet.inference.predict import predict
from libradet.inference.tta import TestTimeAugmentation, with_tta
from libradet.models.build import create_model
from libradet.models.config import DetectionConfig
from libradet.models.nms import multiclass_nms
from libradet.models.serialization import save_model
from libradet.models.zoo import make_config
from libradet.predictor import Predictor
from libradet.structures import Detections
from tests.helpers.evaluation_data import make_dataset
from tests.helpers.fake_detectors import FixedDetector, GroundTruthDetector
from tests.helpers.reference_nms import reference_soft_nms
from tests.helpers.tiny_detectors import tiny_batch, tiny_detector, tiny_zoo_config


class BrightObjectPredictor(nn.Module):
    """Detects the bright rectangle of an image, with a mask of its left half and a score that grows with the image.

    ``batches`` has all batches so far.
    """

    name, class_names, category_ids, size_divisible = "bright", ("thing", "other"), (1, 2), 32
    image_size, device = (64, 96), torch.device("cpu")
    is_proposal_model, num_proposals, has_masks = False, 0, False

    def __init__(self, **changes):
        super().__init__()
        self.batches: list[Batch] = []
        self.__dict__.update(changes)

    def forward(self, batch):
        self.batches.append(batch)
        count = len(batch.sizes)
        boxes, labels = torch.full((count, 3, 4), 5.0), torch.zeros(count, 3, dtype=torch.int64)
        valid = torch.tensor([[True, False, False]] * count)
        for b, image in enumerate(batch.images):
            y, x = torch.nonzero(image[0] > 127, as_tuple=True)
            boxes[b, 0] = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
        scores = (batch.sizes.sum(1, keepdim=True) / 1000).expand(-1, 3)
        left = (torch.arange(4) < 2).float().expand(count, 3, 4, 4)
        return Detections(boxes, scores, labels, valid, left)


def bright_image(width=180, height=120, box=(24, 36, 84, 96)):
    """A dark image with a bright rectangle whose sides are whole pixels also at 1/2 and 2/3 of the size."""
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


def random_image(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("sizes", [(), (60,), (60, 80, (120, 180)), ("original", 60)])
def test_one_object_is_detected_once(flip, sizes):
    predictor = BrightObjectPredictor(image_size=(60, 90))
    views = TestTimeAugmentation(predictor, flip, sizes)
    assert isinstance(views, Predictor)
    found = predict(views, [bright_image(), bright_image(120, 180, (12, 60, 96, 150))], score_thresh=0.0, batch_size=2)
    assert len(predictor.batches) == max(len(sizes), 1) * (1 + flip) * 2
    for one, box in zip(found, [(24, 36, 84, 96), (12, 60, 96, 150)], strict=True):
        np.testing.assert_allclose(one.xyxy, [box], atol=0.01)
        largest = {(): 150, (60,): 150}.get(sizes, 300)
        assert one.confidence == pytest.approx([largest / 1000])


@pytest.mark.parametrize("sizes", [(), (60,), (60, 80)])
def test_masks_are_flipped_back(sizes):
    """The predictor masks the left half of an object; in the flipped image that is the right half."""
    views = TestTimeAugmentation(BrightObjectPredictor(image_size=(60, 90)), True, sizes)
    # Each view has three slots, the first of which is valid; slots of the flipped view follow.
    for slot, (left, right) in ((0, (24, 54)), (3, (54, 84))):
        views.merge = lambda *t, slot=slot: (torch.full_like(t[2][:, :1], slot), t[1][:, :1], t[3][:, :1])
        found = predict(views, bright_image(), score_thresh=0.0)
        columns, rows = found.mask[0].any(0).nonzero()[0], found.mask[0].any(1).nonzero()[0]
        assert abs(columns.min() - left) <= 1
        assert abs(columns.max() + 1 - right) <= 1
        assert abs(rows.min() - 36) <= 1
        assert abs(rows.max() + 1 - 96) <= 1


def test_masks_of_flipped_images_are_flipped():
    batch = tiny_batch(num_images=2)
    predictor = BrightObjectPredictor()
    second = TestTimeAugmentation(
        predictor, tta_flip=True, merge=lambda b, s, labels, v: (torch.full((2, 1), 3), s[:, 3:4], v[:, 3:4])
    )
    found = second(batch)
    right = (torch.arange(4) >= 2).float().expand(2, 1, 4, 4)
    assert torch.equal(found.masks, right)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("faster_rcnn", ()), ("mask_rcnn", ()), ("mask_rcnn", (48, 64)), ("retinanet", ()), ("fast_rcnn", (48, 64))],
)
def test_flipped_images_have_flipped_detections(name, sizes):
    model = tiny_detector(tiny_zoo_config(name, backbone="resnet18")).eval()
    model.config.image.size, model.config.detections.score_thresh = (64, 96), 0.1
    batch = tiny_batch(size=(64, 96), proposals=20)
    width = torch.tensor([[96.0], [80.0]])
    batch = batch._replace(sizes=torch.tensor([[64, 96], [50, 80]]))
    images, proposals = torch.zeros_like(batch.images), batch.proposals.clone()
    for b, (height, end) in enumerate(batch.sizes.tolist()):
        images[b, :, :height, :end] = batch.images[b, :, :height, :end].flip(2)
        proposals[b, :, [0, 2]] = end - batch.proposals[b][:, [2, 0]]
    views = with_tta(model, True, sizes)
    here, there = views(batch), views(batch._replace(images=images, proposals=proposals))
    alone = model.eval()(batch) if not sizes else None
    assert here.valid.sum(1).min() >= 3
    assert torch.equal(here.valid, there.valid)
    torch.testing.assert_close(here.scores, there.scores, atol=1e-4, rtol=0)
    mirrored = torch.stack(
        [width - there.boxes[..., 2], there.boxes[..., 1], width - there.boxes[..., 0], there.boxes[..., 3]], -1
    )
    torch.testing.assert_close(here.boxes, mirrored * here.valid[..., None], atol=0.05, rtol=0)
    assert torch.equal(here.labels, there.labels)
    if here.masks is not None:
        torch.testing.assert_close(here.masks, there.masks.flip(-1), atol=1e-3, rtol=0)
    assert alone is None or not torch.allclose(alone.scores, here.scores), "both views contribute"


def test_each_scale_has_the_batches_of_a_single_scale():
    images = [random_image(*shape, seed) for seed, shape in enumerate([(100, 67), (90, 66), (67, 100), (33, 33)])]
    model = FixedDetector()
    for size in ((32, 48), (64, 96), (50, 60)):
        predict(model, images, size=size, batch_size=4)
    alone, model.batches = model.batches, []
    predict(TestTimeAugmentation(model, tta_scales=[32, (64, 96), (50, 60)]), images, batch_size=4)
    assert {b.images.shape[2:] for b in model.batches} == {b.images.shape[2:] for b in alone}

    def shown(batches):
        parts = [(image, *size) for b in batches for image, size in zip(b.images, b.sizes.tolist(), strict=True)]
        return sorted(image[:, :height, :width].flatten().tolist() for image, height, width in parts)

    assert shown(model.batches) == shown(alone)


def test_views_keep_dataset_rows(tmp_path):
    dataset = make_dataset(tmp_path)
    model, evaluator = GroundTruthDetector(dataset), CocoEvaluator(dataset)
    # Objects of a class overlap, and views of one object overlap more.
    merge = partial(multiclass_nms, config=DetectionConfig(nms_thresh=0.9, detections_per_img=110))
    views = TestTimeAugmentation(model, tta_scales=[30, 47, "original"], merge=merge)
    run_on_dataset(views, dataset, evaluator.update, num_workers=0, progress=False)
    metrics = evaluator.compute()
    assert metrics["AP"] == pytest.approx(1)
    # No object is detected twice.
    assert metrics["detections"] == sum(len(p.boxes) for p in dataset.images)


@pytest.mark.parametrize("flip", [False, True])
def test_proposals_are_transformed_with_the_images(flip):
    model = FixedDetector()
    model.config.rpn = None
    boxes = np.array([[10, 20, 50, 40], [0, 0, 90, 60]], np.float32)
    predict(TestTimeAugmentation(model, flip, tta_scales=[30, 60]), random_image(90, 60), proposals=boxes)
    expected = [boxes / 2, boxes] if not flip else []
    if flip:
        for scale, width in ((0.5, 45), (1, 90)):
            turned = boxes * scale
            expected += [turned, np.stack([width - turned[:, 2], turned[:, 1], width - turned[:, 0], turned[:, 3]], 1)]
    assert len(model.batches) == len(expected)
    for batch, there in zip(model.batches, expected, strict=True):
        np.testing.assert_allclose(batch.proposals[0], there, atol=1e-4)


def test_nms_within_classes_over_all_views():
    """Image of 100 x 60; the detector returns the same fractions in the flipped view, so its boxes are mirrored."""
    # The first is nearly its own mirror image, the second lies left and comes back right, the third of another class.
    model = FixedDetector(
        [(0.28, 0.2, 0.7, 0.8), (0.1, 0.1, 0.2, 0.3), (0.3, 0.2, 0.7, 0.8)], [0.9, 0.6, 0.5], [0, 0, 1], size=(60, 100)
    )
    found = predict(TestTimeAugmentation(model, tta_flip=True), random_image(100, 60), score_thresh=0.0)
    expected = [(28, 12, 70, 48), (10, 6, 20, 18), (80, 6, 90, 18), (30, 12, 70, 48)]
    np.testing.assert_allclose(found.xyxy, expected, atol=1e-4)
    np.testing.assert_allclose(found.confidence, [0.9, 0.6, 0.6, 0.5])
    assert found.class_id.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("kind", ["nms", "soft_gaussian"])
def test_merged_by_the_nms_of_the_detector(kind):
    model = tiny_detector(tiny_zoo_config("faster_rcnn", backbone="resnet18")).eval()
    settings = model.config.detections
    settings.nms_type, settings.nms_thresh, settings.score_thresh, settings.min_score = kind, 0.3, 0.1, 0.05
    batch = tiny_batch()
    here = model(batch)
    there = model(batch._replace(images=batch.images.flip(3)))
    found = with_tta(model, tta_flip=True)(batch)
    left, top, right, bottom = there.boxes.unbind(-1)
    boxes = torch.cat([here.boxes, torch.stack([96 - right, top, 96 - left, bottom], -1)], 1)
    scores, labels, valid = (torch.cat(pair, 1) for pair in zip(here[1:4], there[1:4], strict=True))
    for b in range(2):
        real = valid[b].nonzero().squeeze(1)
        if kind == "nms":
            rows = real[batched_nms(boxes[b, real], scores[b, real], labels[b, real], 0.3)][:100]
            expected = scores[b, rows]
        else:
            image = [t[b].tolist() for t in (boxes, scores, labels, valid)]
            pairs = reference_soft_nms(*image, "gaussian", 0.3, 0.5, 0.05, 100)
            rows, expected = torch.tensor([row for row, _ in pairs]), torch.tensor([score for _, score in pairs])
        assert len(rows) < len(real)
        torch.testing.assert_close(found.boxes[b, found.valid[b]], boxes[b, rows].detach(), atol=1e-3, rtol=0)
        torch.testing.assert_close(found.scores[b, found.valid[b]], expected.detach(), atol=1e-5, rtol=1e-4)


def test_proposals_of_all_views_are_merged():
    model = tiny_detector(tiny_zoo_config("rpn", backbone="resnet18")).eval()
    found = with_tta(model, tta_flip=True, tta_scales=[48, 64])(tiny_batch())
    assert found.valid.sum(1).min() > 60, "more than in any single view"
    for boxes, scores, valid in zip(found.boxes, found.scores, found.valid, strict=True):
        labels = torch.zeros(int(valid.sum()), dtype=torch.int64)
        assert len(batched_nms(boxes[valid], scores[valid], labels, 0.7)) == len(labels)


def test_without_augmentation_the_model_is_returned():
    model = FixedDetector()
    assert with_tta(model) is model


def test_properties_and_mode_of_the_wrapped_model():
    model = FixedDetector([(0.1, 0.1, 0.5, 0.5)], [0.9], [0])
    views = TestTimeAugmentation(model, tta_flip=True, tta_scales=[64])
    model.train()
    predict(views, random_image(50, 50))
    assert model.training
    assert (views.name, views.device, views.size_divisible) == (model.name, model.device, model.size_divisible)
    assert (views.class_names, views.category_ids) == (model.class_names, model.category_ids)
    assert list(views.parameters()) == list(model.parameters())


@pytest.mark.parametrize(
    ("sizes", "own", "words"),
    [
        ([0], (64, 96), "in pixels above 0"),
        ([(96, 64)], (64, 96), "use a shorter side"),
        ([64], "original", "no size of its own"),
    ],
)
def test_invalid_scales(sizes, own, words):
    with pytest.raises(UserError, match=words):
        TestTimeAugmentation(BrightObjectPredictor(image_size=own), tta_scales=sizes)


def test_size_and_scales_exclude_each_other():
    with pytest.raises(UserError, match="exclude each other"):
        FixedDetector().predict(random_image(9, 9), size=(64, 96), tta_scales=[64])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset, and untrained detectors."""
    root = tmp_path_factory.mktemp("models")
    synthesize(root / "data", train=1, val=3, size=(96, 80), classes=2)
    torch.manual_seed(0)
    for name in ("faster_rcnn", "rpn"):
        config = make_config(name, backbone="test_resnet")
        config.image.size, config.pyramid.channels = (80, 96), 16
        config.rpn.test_proposals = replace(config.rpn.test_proposals, pre_nms_top_n=40, post_nms_top_n=40)
        if config.roi is not None:
            config.roi.fc_dim, config.detections.score_thresh = 32, 0.0
        save_model(create_model(config=config, class_names=("ball", "crate")), root / f"{name}.safetensors")
    return root


def test_commands_with_tta(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    model, numbers = str(folder / "faster_rcnn.safetensors"), []
    for more in ([], ["--tta_flip", "--tta_scales", "64", "80"]):
        assert main(["evaluate", model, "--data", str(folder / "data"), "--json", "n.json", *more]) == 0
        numbers.append(json.loads((tmp_path / "n.json").read_text()))
        images = str(folder / "data" / "images" / "val_*.jpg")
        assert main(["predict", model, images, "--output_dir", f"found{len(more)}", "--score_thresh", "0", *more]) == 0
    assert numbers[0]["images"] == numbers[1]["images"] == 3
    plain, several = (json.loads((tmp_path / f"found{n}" / "predictions.json").read_text()) for n in (0, 4))
    assert len(plain) == numbers[0]["detections"]
    assert len(several) == numbers[1]["detections"]
    assert [r["score"] for r in plain] != [r["score"] for r in several]
    capfd.readouterr()
    assert main(["predict", model, "x.jpg", "--output_dir", "o", "--size", "64", "80", "--tta_scales", "64"]) == 2
    assert "not allowed with" in capfd.readouterr().err


def test_proposals_with_tta(folder, tmp_path):
    model, data = str(folder / "rpn.safetensors"), str(folder / "data")
    assert main(["predict", model, "--data", data, "--split", "val", "--output_dir", str(tmp_path), "--tta_flip"]) == 0
    assert (tmp_path / "val.safetensors").is_file()


def test_detector_predict_with_tta():
    model = tiny_detector(tiny_zoo_config("faster_rcnn", backbone="resnet18"))
    model.config.image.size, image = (64, 96), random_image(96, 64)
    several = model.predict(image, score_thresh=0.0, tta_flip=True, tta_scales=[48, (64, 96)])
    expected = predict(with_tta(model, True, [48, (64, 96)]), image, score_thresh=0.0)
    np.testing.assert_array_equal(several.xyxy, expected.xyxy)
