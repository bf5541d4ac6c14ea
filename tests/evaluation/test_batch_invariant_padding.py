"""With batch_invariant_padding, detections in an image do not depend on the other images of the dataset."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from libradet.data.read import read
from libradet.evaluation.evaluate import evaluate
from libradet.inference.predict import predict
from tests.helpers.tiny_detectors import tiny_config, tiny_detector

# Images of a batch are padded to the size of the first; alone, the others are padded to smaller sizes.
SIZES = [(250, 120), (120, 120), (250, 20), (130, 120), (20, 120), (250, 120)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i, (width, height) in enumerate(SIZES):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / "images" / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "width": width, "height": height})
        annotations.append({"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": [2, 2, 15, 15]})
    categories = [{"id": i + 1, "name": f"class_{i}"} for i in range(3)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "val.json").write_text(json.dumps(content))
    return read(folder, "val")[0]


def evaluated_scores(model, dataset, path):
    evaluate(model, dataset, size="original", batch_size=4, num_workers=0, coco_results=path, progress=False)
    rows = json.loads(path.read_text())
    return [sorted((r["score"] for r in rows if r["image_id"] == p.id), reverse=True) for p in dataset.images]


def max_difference(one, other):
    return max(
        (max((abs(a - b) for a, b in zip(x, y, strict=True)), default=0.0) if len(x) == len(y) else 1.0)
        for x, y in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("invariant", [True, False])
def test_evaluate_equals_predict_with_invariant_padding(dataset, tmp_path, invariant):
    config = tiny_config(backbone="resnet18")
    config.image.batch_invariant_padding, config.image.size_divisible = invariant, 128
    config.detections.score_thresh, config.detections.detections_per_img = 0.0, 20
    model = tiny_detector(config).eval()
    for layer in model.modules():
        # With the zero biases of a new model, features of padding are zero, as beyond the border of the image.
        if getattr(layer, "bias", None) is not None:
            torch.nn.init.normal_(layer.bias, std=0.2)
    predicted = [
        sorted(predict(model, p.path, score_thresh=0.0, size="original").confidence.tolist(), reverse=True)
        for p in dataset.images
    ]
    difference = max_difference(predicted, evaluated_scores(model, dataset, tmp_path / "results.json"))
    if invariant:
        assert difference < 1e-4
    else:
        assert difference > 1e-3, "these images do not depend on padding, so the test is void"


def test_training_batches_are_the_same(dataset):
    from libradet.training import DetectorData

    data = DetectorData(
        dataset, dataset, size="original", batch_size=2, size_divisible=128, num_workers=0, batch_invariant_padding=True
    )
    shared = DetectorData(dataset, dataset, size="original", batch_size=2, size_divisible=128, num_workers=0)
    assert data.count_batches(1) == shared.count_batches(1)
    assert torch.equal(next(iter(data._loader(0, 1, True, 0))).images, next(iter(shared._loader(0, 1, True, 0))).images)
